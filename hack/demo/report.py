"""The demo's last page: what each stage did, where the ViT came from, how well held-out pictures are named."""

from collections.abc import Sequence

from rich.table import Table
from rich.tree import Tree

from hack.demo.outcome import StageOutcome

SMOOTHED = 25
"""Steps over which a first and a last loss are averaged: one step sees some twenty samples, and its loss is noisy."""


def smoothed_losses(outcome: StageOutcome) -> tuple[float, float]:
    """Mean loss of the first and of the last `SMOOTHED` steps of a stage."""
    losses = [metric.loss for metric in outcome.metrics]
    first, last = losses[:SMOOTHED], losses[-SMOOTHED:]
    return sum(first) / len(first), sum(last) / len(last)


def stages_table(outcomes: Sequence[StageOutcome]) -> Table:
    """Job, attempt, steps, losses and manifest digest of every stage."""
    table = Table(title=f"Stages (losses: means of {SMOOTHED} steps)", title_justify="left")
    for column in ("JOB", "LAYOUT"):
        table.add_column(column, no_wrap=True)
    for column in ("ATTEMPT", "STEPS", "FIRST LOSS", "LAST LOSS"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("MANIFEST SHA-256", no_wrap=True)
    for outcome in outcomes:
        manifest, job = outcome.manifest, outcome.status.job_ref
        layout = manifest.layout
        first, last = smoothed_losses(outcome)
        table.add_row(
            job.name if job else outcome.run,
            f"TP{layout.tensor} PP{layout.pipeline} DP{layout.data}",
            str(manifest.attempt),
            f"{manifest.step}/{manifest.total_steps}",
            f"{first:.3f}",
            f"{last:.3f}",
            f"{outcome.ref.sha256[:12]}…",
        )
    return table


def checkpoint_lines(outcomes: Sequence[StageOutcome]) -> list[str]:
    """Where each stage's final checkpoint lies: whole URIs, to be copied."""
    return [f"{outcome.run} {outcome.status.name}: {outcome.ref.uri}" for outcome in outcomes]


def lineage_tree(outcomes: Sequence[StageOutcome]) -> Tree:
    """For every run, the history of the ViT that its last stage started from."""
    tree = Tree("Where each run's ViT came from")
    for run in dict.fromkeys(outcome.run for outcome in outcomes):
        last = [outcome for outcome in outcomes if outcome.run == run][-1]
        branch = tree.add(f"{run}, before {last.status.name}")
        for entry in last.lineage:
            branch.add(
                f"trained by {entry.run.name} in {entry.stage}, step {entry.step}, "
                f"run {entry.run.uid}, manifest {entry.manifest.sha256[:12]}…"
            )
    return tree
