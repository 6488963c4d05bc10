"""Where the lines of workers go."""

from collections.abc import Sequence
from typing import BinaryIO, Protocol


class Output(Protocol):
    """Takes what the launcher and its workers say."""

    def show(self, source: str, lines: Sequence[bytes]) -> None:
        """Some whole lines, without their ends, of one source: `rank 3`, or `launcher`."""
        ...


class PlainOutput:
    """Every line as it is, behind the name of its source: for log files and pods."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink

    def show(self, source: str, lines: Sequence[bytes]) -> None:
        """See `Output.show`."""
        prefix = f"[{source}] ".encode()
        self._sink.write(b"".join(prefix + line + b"\n" for line in lines))
        self._sink.flush()
