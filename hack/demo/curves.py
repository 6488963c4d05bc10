"""The loss of every stage as one picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from hack.demo.outcome import StageOutcome

mpl.use("Agg")


def draw(outcomes: Sequence[StageOutcome], path: Path) -> Path:
    """One panel per run, its stages one after the other, each point an optimizer step; written as PNG to `path`."""
    from matplotlib import pyplot as plt

    runs = list(dict.fromkeys(outcome.run for outcome in outcomes))
    figure, axes = plt.subplots(1, len(runs), figsize=(6 * len(runs), 3.6), squeeze=False, sharey=True)
    for axis, run in zip(axes[0], runs, strict=True):
        start = 0
        for outcome in (one for one in outcomes if one.run == run):
            steps = [start + metric.step for metric in outcome.metrics]
            axis.plot(steps, [metric.loss for metric in outcome.metrics], label=outcome.status.name, linewidth=1.2)
            axis.axvline(start, color="0.85", linewidth=0.8, zorder=0)
            start += outcome.manifest.step
        axis.set_title(run)
        axis.set_xlabel("optimizer steps")
        axis.legend(frameon=False)
    axes[0][0].set_ylabel("loss (nats per weighted token)")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
