"""The operator's process: `python -m internvl_operator.main --config settings.yaml`."""

import asyncio
import os
import sys
from pathlib import Path

import click

from internvl_operator.adapters import logs
from internvl_operator.config import InvalidSettingsError, load_settings

INVALID_SETTINGS = 2
CANNOT_SERVE = 3


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="Settings file (YAML). Variables INTERNVL_OPERATOR__SECTION__FIELD win over it.",
)
def main(path: Path | None) -> None:
    """Turn InternVLTraining objects into chained training jobs, until SIGTERM."""
    try:
        settings = load_settings(path, os.environ)
    except InvalidSettingsError as error:
        click.echo(f"internvl-operator: {error}", err=True)
        sys.exit(INVALID_SETTINGS)
    logs.configure(settings.logging.format, settings.logging.level)
    # Late, so that a wrong setting is told at once.
    from kubernetes.aio.config import ConfigException

    from internvl_operator.adapters.kube_errors import KubernetesError
    from internvl_operator.handlers import operator

    try:
        asyncio.run(operator.run(settings, instance=os.environ.get("POD_NAME", "")))
    except (ConfigException, KubernetesError) as error:
        click.echo(f"internvl-operator: cannot serve: {error}", err=True)
        sys.exit(CANNOT_SERVE)


if __name__ == "__main__":
    main()
