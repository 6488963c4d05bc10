"""The demo's last page: what each stage did, where the ViT came from, how well held-out pictures are named."""

from collections.abc import Sequence

from rich.table import Table
from rich.tree import Tree

from hack.demo.outcome import StageOutcome


def stages_table(outcomes: Sequence[StageOutcome]) -> Table:
    """Job, attempt, steps, losses, checkpoint and manifest digest of every stage."""
    table = Table(title="Stages", title_justify="left")
    for column in ("JOB", "LAYOUT"):
        table.add_column(column, no_wrap=True)
    for column in ("ATTEMPT", "STEPS", "FIRST LOSS", "LAST LOSS"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("CHECKPOINT", overflow="fold")
    table.add_column("MANIFEST SHA-256", no_wrap=True)
    for outcome in outcomes:
        manifest, job = outcome.manifest, outcome.status.job_ref
        layout = manifest.layout
        table.add_row(
            job.name if job else outcome.run,
            f"TP{layout.tensor} PP{layout.pipeline} DP{layout.data}",
            str(manifest.attempt),
            f"{manifest.step}/{manifest.total_steps}",
            f"{manifest.loss.first:.3f}",
            f"{manifest.loss.last:.3f}",
            outcome.ref.uri,
            f"{outcome.ref.sha256[:12]}…",
        )
    return table


def lineage_tree(outcomes: Sequence[StageOutcome]) -> Tree:
    """For every run, the history of the ViT that its last stage started from."""
    tree = Tree("Where each run's ViT came from")
    for run in dict.fromkeys(outcome.run for outcome in outcomes):
        last = [outcome for outcome in outcomes if outcome.run == run][-1]
        branch = tree.add(f"{run}, before {last.status.name}")
        for entry in last.lineage:
            branch.add(
                f"{entry.run.name} {entry.stage}, step {entry.step}: {entry.manifest.uri} "
                f"(sha256 {entry.manifest.sha256[:12]}…)"
            )
    return tree
