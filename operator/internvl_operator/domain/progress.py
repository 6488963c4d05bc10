"""From the trainer's progress reports to the status: step, loss, rates and ETA in the form that people read."""

from internvl_operator.api.base import whole_second
from internvl_operator.api.status import CheckpointStatus, Progress, StageStatus
from internvl_trainer.contract.progress import ProgressReport


def fold_stage(stage: StageStatus, report: ProgressReport | None) -> StageStatus:
    """A stage's record with what its open attempt reports. Reports of other attempts are not to be handed in."""
    if report is None or not _is_news(stage, report):
        return stage
    checkpoint = report.checkpoint and CheckpointStatus(
        step=report.checkpoint.step,
        uri=report.checkpoint.manifest.uri,
        manifest_sha256=report.checkpoint.manifest.sha256,
    )
    loss = _number(report.loss)
    return stage.model_copy(
        update={
            "steps": report.step,
            "first_loss": stage.first_loss or loss,
            "last_loss": loss or stage.last_loss,
            "last_checkpoint": checkpoint or stage.last_checkpoint,
        }
    )


def fold_run(progress: Progress | None, report: ProgressReport | None) -> Progress | None:
    """The run's progress after `report`, which is of the current stage; one older than that on record changes nothing.

    A later attempt's report is newer whatever its time: another node's clock has written it.
    """
    if report is None or (progress is not None and _is_older(report, progress)):
        return progress
    return Progress(
        stage=report.stage,
        attempt=report.attempt,
        step=report.step,
        total_steps=report.total_steps,
        percent=min(100 * report.step // report.total_steps, 100),
        steps=f"{report.step}/{report.total_steps}",
        loss=_number(report.loss),
        learning_rate=_number(report.learning_rate),
        tokens_per_second=_whole(report.tokens_per_second),
        tiles_per_second=None if report.tiles_per_second is None else f"{report.tiles_per_second:.1f}",
        eta_seconds=_whole(report.eta_seconds),
        eta=None if report.eta_seconds is None else duration(report.eta_seconds),
        last_report_time=whole_second(report.reported_at),
    )


def at_end(progress: Progress | None, stage: StageStatus) -> Progress | None:
    """The run's progress once its last stage is verified: the manifest knows the last step, the last report may not."""
    if progress is None or progress.stage != stage.name:
        return progress
    return progress.model_copy(
        update={
            "step": stage.steps,
            "total_steps": stage.steps,
            "percent": 100,
            "steps": f"{stage.steps}/{stage.steps}",
            "loss": stage.last_loss or progress.loss,
            "eta_seconds": 0,
            "eta": duration(0),
        }
    )


def duration(seconds: float) -> str:
    """Seconds in two units for people: 45s, 12m30s, 2h05m, 3d04h."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _is_news(stage: StageStatus, report: ProgressReport) -> bool:
    return (report.stage, report.attempt) == (stage.name, stage.attempt)


def _is_older(report: ProgressReport, progress: Progress) -> bool:
    age = (report.attempt, whole_second(report.reported_at))
    return report.stage == progress.stage and age < (progress.attempt, progress.last_report_time)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
