"""Options that `internvl data check` and `report` share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from internvl_trainer.curation.inputs import Inputs
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.sources import Source

Command = Callable[..., None]


def sources_option(command: Command) -> Command:
    """Names of data sets, given to the command as `names`."""
    return click.option(
        "--sources",
        "names",
        metavar="NAME,...",
        default="",
        callback=_split,
        help="Only these data sets.",
    )(command)


def global_batch_option(command: Command) -> Command:
    """What makes an epoch of packs an epoch of steps."""
    return click.option(
        "--global-batch", type=click.IntRange(min=1), help="Packs of an optimizer step; default: the job's, if any."
    )(command)


class Steps(NamedTuple):
    """What makes an epoch of packs an epoch of optimizer steps."""

    global_batch: int | None
    """Packs of a step; None where nobody said."""
    replicas: int
    """Data-parallel replicas that share them."""


def steps_of(inputs: Inputs, global_batch: int | None) -> Steps:
    """As the option says, else as the job does."""
    job = inputs.job
    if job is None:
        return Steps(global_batch, 1)
    return Steps(global_batch or job.optimization.global_batch, job.layout.data)


def chosen(sources: Sequence[Source], names: Sequence[str]) -> tuple[Source, ...]:
    """The data sets of these names, in their own order; without names all.

    Raises:
        MetaError: there is no data set of a name.
    """
    there = [source.name for source in sources]
    if unknown := sorted(set(names) - set(there)):
        raise MetaError(f"--sources names {', '.join(unknown)}; there are {', '.join(there)}")
    return tuple(source for source in sources if not names or source.name in names)


def _split(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())
