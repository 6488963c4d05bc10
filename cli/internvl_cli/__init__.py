"""The `internvl` command: joins the command groups that each package registers."""
