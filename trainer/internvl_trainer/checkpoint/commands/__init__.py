"""The subcommands of `internvl checkpoint`, one module each, imported when it runs."""
