"""Training as a person watches it: a live line of progress below the log."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from internvl_trainer.contract.progress import ProgressReport
from internvl_trainer.train import live, progress


class TerminalOutput:
    """Log lines scroll by, progress reports replace each other in the last line. Made by `on_terminal`."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def show(self, source: str, lines: Sequence[bytes]) -> None:
        """See `Output.show`."""
        for line in lines:
            report = live.parse(line)
            if report is None:
                text = Text.assemble((f"[{source}] ", "dim"), line.decode(errors="replace"))
                self._bar.console.print(text, soft_wrap=True)
            else:
                self._show_progress(report)

    def _show_progress(self, report: ProgressReport) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=report.total_steps)
        # Steps of a resumed stage that an earlier attempt did count as done.
        self._bar.update(self._task, completed=report.step, description=progress.brief(report), refresh=True)


@contextmanager
def on_terminal(console: Console) -> Iterator[TerminalOutput]:
    """A live output for the time of one launch. Without a refreshing thread, since the launcher is about to fork."""
    bar = Progress(
        BarColumn(bar_width=None), TextColumn("{task.description}", markup=False),
        console=console, auto_refresh=False, expand=True, redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    with bar:
        yield TerminalOutput(bar)
