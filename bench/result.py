"""What a benchmark found, as numbers for a file and as a table for people."""

import platform
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np

from bench import devices
from bench.measure import WARM_UP, Entry
from bench.workload import IGNORED
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.flops import PackLoad, mfu
from internvl_trainer.data.pack import Pack

GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One contender. MFU counts the stage's own passes and no padding; None where the device's peak is not known."""

    name: str
    seconds_per_step: float
    fastest: float
    slowest: float
    tokens_per_second: float
    tiles_per_second: float
    peak_gib: float
    mfu: float | None
    """With a head at every token, as published figures count."""
    mfu_supervised_head: float | None
    """With a head at supervised tokens alone, which is what our engine computes."""
    tokens_ratio: float
    """Tokens per second over those of the last contender, the plainest peer."""
    first_loss: float
    last_loss: float


@dataclass(frozen=True)
class Result:
    """One run of the benchmark."""

    command: str
    date: str
    device: str
    versions: dict[str, str]
    tokens_per_step: int
    tiles_per_step: int
    supervised_per_step: int
    samples_per_step: int
    steps: int
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def load(self) -> str:
        """What a step trained on, in one line."""
        return (
            f"per step {self.tokens_per_step} tokens ({self.supervised_per_step} supervised), {self.tiles_per_step} "
            f"tiles, {self.samples_per_step} samples; median of {self.steps} steps after {WARM_UP}\n"
        )

    def table(self) -> str:
        """For a terminal, and for a Markdown page."""
        memory = "peak GiB" if devices.on_cuda() else "process GiB"
        head = [
            "",
            "s/step (fastest, slowest)",
            "tokens/s",
            "tiles/s",
            memory,
            "MFU (head everywhere)",
            "tokens/s ratio",
        ]
        lines = [head, ["---"] * len(head)]
        for row in self.rows:
            share = "peak not known" if row.mfu is None else f"{row.mfu_supervised_head:.1%} ({row.mfu:.1%})"
            lines.append(
                [
                    row.name,
                    f"{row.seconds_per_step:.3f} ({row.fastest:.3f}, {row.slowest:.3f})",
                    f"{row.tokens_per_second:,.0f}",
                    f"{row.tiles_per_second:,.1f}",
                    f"{row.peak_gib:.2f}",
                    share,
                    f"{row.tokens_ratio:.2f}",
                ]
            )
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def result(
    command: str,
    model: ModelGeometry,
    trainable: Collection[Component],
    batches: Sequence[Sequence[Pack]],
    entries: Sequence[Entry],
    peak: float | None,
) -> Result:
    """Sum up a competition.

    Args:
        batches: what was trained on; all alike in tokens and tiles.
        peak: the device's operations per second; None where not known.
    """
    packs = batches[0]
    everywhere, supervised = _load(packs, head_everywhere=True), _load(packs, head_everywhere=False)
    slowest = entries[-1].median
    rows = tuple(
        Row(
            name=entry.contender.name,
            seconds_per_step=entry.median,
            fastest=min(entry.seconds),
            slowest=max(entry.seconds),
            tokens_per_second=everywhere.tokens / entry.median,
            tiles_per_second=everywhere.tiles / entry.median,
            peak_gib=entry.peak / GIB,
            mfu=peak and mfu(model, everywhere, trainable, entry.median, peak),
            mfu_supervised_head=peak and mfu(model, supervised, trainable, entry.median, peak),
            tokens_ratio=slowest / entry.median,
            first_loss=entry.losses[0],
            last_loss=entry.losses[-1],
        )
        for entry in entries
    )
    return Result(
        command=command,
        date=datetime.now(UTC).date().isoformat(),
        device=devices.describe(),
        versions={name: version(name) for name in ("torch", "megatron-core", "transformers")}
        | {"python": platform.python_version()},
        tokens_per_step=everywhere.tokens,
        tiles_per_step=everywhere.tiles,
        supervised_per_step=supervised.head_tokens,
        samples_per_step=sum(len(pack.sample_ids) for pack in packs),
        steps=len(batches),
        rows=rows,
    )


def _load(packs: Sequence[Pack], *, head_everywhere: bool) -> PackLoad:
    """All packs together."""
    lengths = [int(length) for pack in packs for length in np.diff(pack.cu_seqlens)]
    supervised = sum(int((pack.labels_S != IGNORED).sum()) for pack in packs)
    tiles = sum(pack.tile_count for pack in packs)
    return PackLoad.of_segments(lengths, tiles, None if head_everywhere else supervised)
