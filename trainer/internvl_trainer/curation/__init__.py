"""What a person does with data before a stage trains on it: `internvl data index`, `check`, `report` and `filter`.

Import from the modules; this file stays empty of imports, so that one command does not load what another needs.
"""
