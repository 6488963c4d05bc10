"""`python -m internvl_trainer.train --config job.json`: one worker, placed by torchrun's environment variables."""

import os
import sys
from pathlib import Path

import click

from internvl_trainer.train.main import run


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True, help="The job config, a JSON file.")
def main(config: Path) -> None:
    """Train one stage as one rank."""
    code = run(config)
    sys.stdout.flush()
    sys.stderr.flush()
    # Process groups whose peers are dead wait for them at interpreter exit; the exit code is what counts.
    os._exit(code)


if __name__ == "__main__":
    main()
