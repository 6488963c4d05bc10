"""How fast training goes: from step metrics to a line for people and a report for the operator. Pure."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from internvl_trainer.checkpoint.state import StepMetrics
from internvl_trainer.contract.job import JobConfig, OptimizationConfig
from internvl_trainer.contract.progress import CheckpointProgress, ProgressReport

WINDOW = 10
"""Steps that rates and the time left are averaged over."""


def report(
    job: JobConfig, metrics: Sequence[StepMetrics], now: datetime, checkpoint: CheckpointProgress | None = None
) -> ProgressReport:
    """Where a stage stands after the last of `metrics`.

    Args:
        metrics: of this stage's steps, oldest first, at least one.
        now: with time zone.
        checkpoint: the newest one that this attempt committed.
    """
    recent, last, total = metrics[-WINDOW:], metrics[-1], expected_steps(job.optimization, metrics)
    seconds = max(sum(each.seconds for each in recent), 1e-6)
    tokens = sum(each.tokens for each in recent)
    capacity = len(recent) * job.optimization.global_batch * job.data.pack_tokens
    return ProgressReport(
        run_uid=job.run.uid,
        stage=job.stage,
        attempt=job.attempt,
        step=last.step,
        total_steps=total,
        loss=last.loss,
        learning_rate=last.learning_rate,
        tokens_per_second=tokens / seconds,
        tiles_per_second=sum(each.tiles for each in recent) / seconds,
        padding=1 - tokens / capacity,
        skipped_samples=sum(each.skipped for each in metrics),
        eta_seconds=seconds / len(recent) * (total - last.step),
        checkpoint=checkpoint,
        reported_at=now,
    )


def expected_steps(settings: OptimizationConfig, metrics: Sequence[StepMetrics]) -> int:
    """Steps after which the stage will be done, if steps go on holding as many tokens as the last ones did.

    Args:
        metrics: of all of the stage's steps, oldest first, at least one.
    """
    if settings.stop_after_tokens is None:
        return settings.steps
    recent = metrics[-WINDOW:]
    left = max(0, settings.stop_after_tokens - sum(each.tokens for each in metrics))
    tokens_per_step = max(1.0, sum(each.tokens for each in recent) / len(recent))
    return min(settings.steps, metrics[-1].step + math.ceil(left / tokens_per_step))


def line(status: ProgressReport, last: StepMetrics) -> str:
    """One line for the log."""
    return f"{brief(status)}  grad {last.grad_norm:.3f}  lr {last.learning_rate:.3e}  {last.seconds:.2f} s/step"


def brief(status: ProgressReport) -> str:
    """What a person watches: step, loss, rates, empty share of the packs, time left, and samples that were left out."""
    eta = timedelta(seconds=round(status.eta_seconds or 0))
    left_out = f"  left out {status.skipped_samples:,} samples" if status.skipped_samples else ""
    return (
        f"step {status.step}/{status.total_steps}  loss {status.loss or 0:.4f}  "
        f"{status.tokens_per_second or 0:,.0f} tok/s  {status.tiles_per_second or 0:,.1f} tiles/s  "
        f"padding {100 * (status.padding or 0):.1f} %  eta {eta}{left_out}"
    )
