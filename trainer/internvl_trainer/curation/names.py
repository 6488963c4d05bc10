"""Names of data sets in tables."""

from rich.table import Table

LONGEST = 40
"""Characters of a name in one line; a longer one goes on in the next, so that numbers have room."""


def add_names(table: Table, heading: str = "DATA SET", footer: str = "") -> None:
    """Add the column of names, which is the one that gives way on a narrow terminal. Its cells are `Text`: a name may
    hold brackets, which would be markup."""
    table.add_column(heading, footer, overflow="fold", max_width=LONGEST, min_width=8)
