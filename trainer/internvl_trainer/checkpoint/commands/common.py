"""What all subcommands share: the store that they work at, how they fail, bars, and how documents are shown."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from internvl_trainer.checkpoint.cli import manifest_uri, store_options
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.gate import Problem

if TYPE_CHECKING:
    from internvl_trainer.storage import ObjectStore

COMPONENT = click.Choice([component.value for component in Component])


def at_store(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `store_options`; it gets `store` and `output`, and fails with our exit codes."""

    @store_options
    @wraps(command)
    def told(
        *,
        endpoint_url: str | None,
        region: str | None,
        virtual_host_style: bool,
        ca_file: str | None,
        **options: Any,
    ) -> None:
        with failing_well():
            command(store=opened(endpoint_url, region, virtual_host_style, ca_file), **options)

    return told


def opened(
    endpoint_url: str | None, region: str | None, virtual_host_style: bool, ca_file: str | None
) -> "ObjectStore":
    """The store that the options name."""
    from internvl_trainer.storage import open_store

    return open_store(endpoint_url=endpoint_url, region=region, path_style=not virtual_host_style, ca_file=ca_file)


@contextmanager
def failing_well() -> Iterator[None]:
    """End with the exit code of the error that came, and its message."""
    from internvl_trainer.checkpoint.errors import CheckpointError
    from internvl_trainer.storage import StoreError

    try:
        yield
    except (CheckpointError, StoreError) as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted; the same command can be given again", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has seen enough; click ends quietly.
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        cause = (error.strerror or type(error).__name__).lower()
        fail(f"{where}{cause}; free space or name another place", ExitCode.STORE_UNAVAILABLE)


def fail(message: str, code: ExitCode) -> NoReturn:
    """End as the trainer would for the same cause."""
    click.echo(f"Error: {message}", err=True)
    raise click.exceptions.Exit(int(code))


def note(message: str) -> None:
    """Tell people something that is no result."""
    click.echo(f"Note: {message}", err=True)


def print_json(document: Any) -> None:
    """Print a result for programs."""
    click.echo(json.dumps(document, indent=1))


def whole_uri(place: str) -> str:
    """A place that means the same from everywhere, and is spelled as jobs spell it: manifests name it."""
    return place if "://" in place else f"file://{Path(place).absolute()}"


def whole_manifest_uri(place: str) -> str:
    """The same, of the manifest of a checkpoint that is given by its folder or by its manifest."""
    return manifest_uri(whole_uri(place))


def problems_in_json(problems: tuple[Problem, ...]) -> list[dict[str, str]]:
    """What is wrong with a checkpoint, for programs."""
    return [{"reason": problem.reason, "message": str(problem)} for problem in problems]


def print_problems(problems: tuple[Problem, ...], console: Console) -> None:
    """What is wrong with a checkpoint, or that nothing is."""
    for problem in problems:
        console.print(problem.reason, style="red", end="", markup=False, highlight=False)
        console.print(f": {problem}", markup=False, highlight=False)
    if not problems:
        console.print("verified", style="green")


@contextmanager
def bars(**sizes: int) -> Iterator[dict[str, Callable[[int], None]]]:
    """A bar for each kind of transfer, with bytes, speed and time left; nothing where no terminal would show it.

    Args:
        sizes: bytes of each, by what it is called.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks = {name: progress.add_task(name, total=size) for name, size in sizes.items()}
        yield {name: _advance(progress, task) for name, task in tasks.items()}


def _advance(progress: Progress, task: Any) -> Callable[[int], None]:
    return lambda size: progress.advance(task, size)
