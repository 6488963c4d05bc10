"""Benchmarks of the data path: python -m bench.data COMMAND."""

import click

from bench.data.images import images
from bench.data.index import index
from bench.data.loader import loader
from bench.data.packing import packing
from bench.data.resume import resume


@click.group()
def main() -> None:
    """The data path against its peers, side by side in one run."""


for command in (images, index, loader, packing, resume):
    main.add_command(command)

if __name__ == "__main__":
    main()
