"""Benchmarks of the data path: python -m bench.data COMMAND."""

import click

from bench.data.images import images


@click.group()
def main() -> None:
    """The data path against its peers, side by side in one run."""


main.add_command(images)

if __name__ == "__main__":
    main()
