"""How commands of `internvl data` end where they fail: one message, and the exit code of what happened."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NoReturn

import click

from internvl_trainer.contract.catalog import UnknownModelError
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.filter.errors import FilterError
from internvl_trainer.data.errors import DataError
from internvl_trainer.data.index import MeasuringProcessDiedError
from internvl_trainer.launch.job_file import JobFileError
from internvl_trainer.storage import StoreError

_WRONG_PLACE = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM,
        errno.EROFS,
    }
)  # fmt: skip
"""Faults of a path, which are the same in every run. Others, such as a full disk, may pass."""


class OutputFileError(Exception):
    """A file that an option names cannot be written."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CONFIG


@contextmanager
def failing_well(places: Mapping[str, object], *, interrupted: str) -> Iterator[None]:
    """End with the exit code of the error that came, and its message.

    Args:
        places: where the command writes on this machine, by what names each place.
        interrupted: what Ctrl-C leaves.
    """
    try:
        yield
    except (DataError, StoreError, JobFileError, FilterError, MeasuringProcessDiedError, OutputFileError) as error:
        fail(str(error), error.exit_code)
    except UnknownModelError as error:
        fail(str(error), ExitCode.INVALID_CONFIG)
    except KeyboardInterrupt:
        fail(f"interrupted; {interrupted}", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has seen enough; click ends quietly.
        raise
    except OSError as error:
        wrong = error.errno in _WRONG_PLACE
        fail(_explained(error, places), ExitCode.INVALID_CONFIG if wrong else ExitCode.STORE_UNAVAILABLE)


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Around what writes a file that an option names.

    Raises:
        OutputFileError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OutputFileError(
            f"cannot write {path}: {_cause(error)}; free space or name another file by {option}"
        ) from error


def writable(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Callback of an option that names a file to write: refuse a folder that is not there before any work is done."""
    if path is not None:
        if not path.parent.is_dir():
            raise click.BadParameter(f"{path}: there is no folder {path.parent}; make it, or name another")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise click.BadParameter(f"{path} cannot be written, for want of permission or on a read-only file system")
    return path


def fail(message: str, code: int) -> NoReturn:
    """End with a message and an exit code."""
    click.echo(f"Error: {message}", err=True)
    raise click.exceptions.Exit(int(code))


def _explained(error: OSError, places: Mapping[str, object]) -> str:
    where = f"{error.filename}: " if error.filename else ""
    written = ", ".join(f"{name} ({place})" for name, place in places.items())
    return f"{where}{_cause(error)}; free space or name another place: this command writes to {written}"


def _cause(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
