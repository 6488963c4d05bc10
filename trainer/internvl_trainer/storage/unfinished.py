"""Files that appear under their name only when they are whole."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PREFIX = ".unfinished-"


@contextmanager
def unfinished(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A temporary file beside `target`, gone at the end unless it was renamed.

    Its name is nobody else's: several processes of a node may write the same target at once, and the last wins.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{PREFIX}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as sink:
            yield temporary, sink
    finally:
        temporary.unlink(missing_ok=True)
