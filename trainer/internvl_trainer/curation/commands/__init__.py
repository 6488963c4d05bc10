"""One module per subcommand of `internvl data`; curation/cli.py imports each when it runs."""
