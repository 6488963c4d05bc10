"""What the commands say while they work: one line for each step, with its time."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console


class Report:
    """Prints steps; a terminal also sees what is under way, and for how long."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Says `what` is being done, then that it is done and how many seconds it took."""
        started = time.monotonic()
        if not self.console.is_terminal:
            # A log has no spinner: say beforehand what may take minutes.
            self.console.print(f"   {what} ...", soft_wrap=True)
        with self.console.status(what):
            yield
        self.console.print(f"[green]ok[/green] {what} [dim]({time.monotonic() - started:.1f} s)[/dim]", soft_wrap=True)

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
