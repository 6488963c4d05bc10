"""Tables of runs: pure functions from InternVLTraining objects, as the API server returns them, to rich renderables."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from internvl_operator.api.status import ConditionType, StageState, StageStatus, TrainingStatus

_COLOURS = {
    StageState.PENDING: "bright_black",
    StageState.INDEXING: "cyan",
    StageState.WAITING_FOR_VISION: "yellow",
    StageState.STARTING: "cyan",
    StageState.RUNNING: "bold cyan",
    StageState.RESTARTING: "yellow",
    StageState.HANDOFF: "magenta",
    StageState.SUCCEEDED: "green",
    StageState.FAILED: "bold red",
}


class StageRow(NamedTuple):
    """One line of the live table: a stage of a run, with the newest progress where it is the one that runs."""

    run: str
    stage: str
    state: StageState
    attempt: int
    step: int
    total_steps: int | None
    loss: str
    tokens_per_second: int | None
    eta: str


def run_name(training: Mapping[str, Any]) -> str:
    """The object's name."""
    return str(training["metadata"]["name"])


def status_of(training: Mapping[str, Any]) -> TrainingStatus:
    """The parsed status; an empty one where the operator has not looked at the run yet."""
    return TrainingStatus.model_validate(training.get("status") or {})


def message_of(status: TrainingStatus) -> str:
    """The one sentence that says why the run is where it is: of the terminal condition, else of Progressing."""
    for kind in (ConditionType.FAILED, ConditionType.SUCCEEDED):
        if status.is_true(kind) and (condition := status.condition(kind)):
            return f"{condition.reason}: {condition.message}"
    accepted, progressing = status.condition(ConditionType.ACCEPTED), status.condition(ConditionType.PROGRESSING)
    if accepted is not None and accepted.status == "False":
        return f"{accepted.reason}: {accepted.message}"
    return f"{progressing.reason}: {progressing.message}" if progressing else "not seen by the operator yet"


def stage_rows(training: Mapping[str, Any]) -> list[StageRow]:
    """One row per stage of the spec, in order; stages without a status yet are Pending."""
    status = status_of(training)
    return [_row(run_name(training), spec, status) for spec in training["spec"]["stages"]]


def _row(run: str, spec: Mapping[str, Any], status: TrainingStatus) -> StageRow:
    stage: StageStatus = status.stage(spec["name"])
    progress = status.progress
    live = progress is not None and progress.stage == stage.name and stage.state != StageState.SUCCEEDED
    return StageRow(
        run=run,
        stage=stage.name,
        state=stage.state,
        attempt=stage.attempt,
        step=progress.step if live and progress else stage.steps,
        total_steps=spec.get("steps"),
        loss=(progress.loss or "") if live and progress else (stage.last_loss or ""),
        tokens_per_second=progress.tokens_per_second if live and progress else None,
        eta=(progress.eta or "") if live and progress else "",
    )


def live_table(trainings: Iterable[Mapping[str, Any]], *, title: str | None = None) -> Table:
    """All stages of all runs, with a bar for the one that runs and, below each run, why it is where it is."""
    table = Table(title=title, expand=False, title_justify="left")
    for column in ("RUN", "STAGE", "STATE"):
        table.add_column(column, no_wrap=True)
    for column in ("ATTEMPT", "STEP"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", min_width=16)
    for column in ("LOSS", "TOKENS/S", "ETA"):
        table.add_column(column, justify="right", no_wrap=True)
    for training in trainings:
        for index, row in enumerate(stage_rows(training)):
            table.add_row(row.run if index == 0 else "", *_cells(row))
        table.add_row("", Text(message_of(status_of(training)), style="italic bright_black"), end_section=True)
    return table


def _cells(row: StageRow) -> tuple[str | Text | ProgressBar, ...]:
    total = row.total_steps or 1
    return (
        row.stage,
        Text(row.state, style=_COLOURS[row.state]),
        str(row.attempt or ""),
        f"{row.step}/{row.total_steps}" if row.attempt else "",
        ProgressBar(total=total, completed=min(row.step, total), width=16) if row.attempt else "",
        row.loss,
        f"{row.tokens_per_second:,}" if row.tokens_per_second is not None else "",
        row.eta,
    )


def plain_line(training: Mapping[str, Any]) -> str:
    """The whole run in one line, for terminals that cannot be redrawn (CI logs)."""
    status = status_of(training)
    stages = "  ".join(
        f"{row.stage} {row.state} a{row.attempt} {row.step}/{row.total_steps}{f' loss {row.loss}' if row.loss else ''}"
        for row in stage_rows(training)
        if row.attempt
    )
    return f"{run_name(training)}: {status.phase}  {stages or message_of(status)}"
