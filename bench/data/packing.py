"""How full packs are and how long packing takes, against the released trainer's packer; how even the ranks' work is.

python -m bench.data packing
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.data.mixes import MIXES, Sizes
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.data import seeding
from internvl_trainer.data.packing import PackCost, PackLimits, arrange, form_packs, reference_greedy
from internvl_trainer.data.walk import WINDOW

Packs = Sequence[Sequence[int]]
"""Positions of the samples of each pack."""


class Fill(NamedTuple):
    """What one packer made of one mix."""

    mix: str
    packer: str
    tokens_per_sample: float
    tiles_per_sample: float
    packs: int
    over_bound: float
    """Packs over max(tokens / pack tokens, tiles / pack tiles), which no packer can go below."""
    token_fill: float
    tile_fill: float
    microseconds_per_sample: float


class Balance(NamedTuple):
    """How much more than the mean the rank with the most work has."""

    ranks: int
    in_order: float
    arranged: float


@click.command()
@click.option("--samples", default=8 * WINDOW, show_default=True)
@click.option("--pack-tokens", default=16384, show_default=True)
@click.option("--pack-tiles", default=48, show_default=True)
@click.option("--global-batch", default=512, show_default=True, help="Packs that the ranks share.")
@click.option("--model", type=click.Choice(list(catalog.MODELS)), default="InternVL2_5-1B", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write the figures.")
def packing(
    samples: int, pack_tokens: int, pack_tiles: int, global_batch: int, model: str, seed: int, json_file: Path | None
) -> None:
    """Pack several mixes by the trainer's packer and by the released one."""
    limits = PackLimits(pack_tokens, pack_tiles)
    packers = {
        "windows of 4,096": by_windows,
        "released, buffer 20": released(20),
        "released, buffer 100": released(100),
    }
    fills = [
        measure(mix, sizes, name, packer, limits)
        for mix, make in MIXES.items()
        for sizes in [make(samples, seed)]
        for name, packer in packers.items()
    ]
    cost = PackCost.of_model(catalog.MODELS[model], tuple(Component))
    balances = balance(costs(MIXES["InternVL-like"](global_batch * 32, seed), limits, cost)[:global_batch])
    console = Console(width=140)
    console.print(fill_table(fills))
    console.print(balance_table(balances, model))
    if json_file:
        found = {"fill": [fill._asdict() for fill in fills], "balance": [entry._asdict() for entry in balances]}
        json_file.write_text(json.dumps(found, indent=1))


def by_windows(sizes: Sizes, limits: PackLimits) -> list[list[int]]:
    """The trainer's packs: each window on its own."""
    packs = []
    for begin in range(0, len(sizes.tokens), WINDOW):
        window = slice(begin, begin + WINDOW)
        formed = form_packs(sizes.tokens[window].tolist(), sizes.tiles[window].tolist(), limits)
        packs += [[begin + position for position in pack] for pack in formed]
    return packs


def released(buffer: int) -> Callable[[Sizes, PackLimits], Packs]:
    """The released trainer's packs; it counts a blank tile for text."""

    def pack(sizes: Sizes, limits: PackLimits) -> list[list[int]]:
        samples = zip(sizes.tokens.tolist(), np.maximum(sizes.tiles, 1).tolist(), strict=True)
        packs = reference_greedy(samples, max_tokens=limits.tokens, max_tiles=limits.tiles, buffer_size=buffer)
        return [pack.members for pack in packs]

    return pack


def measure(
    mix: str, sizes: Sizes, packer: str, pack: Callable[[Sizes, PackLimits], Packs], limits: PackLimits
) -> Fill:
    """Pack a mix, by the process's own CPU time."""
    begin = time.process_time()
    packs = len(pack(sizes, limits))
    seconds = time.process_time() - begin
    token_packs, tile_packs = sizes.tokens.sum() / limits.tokens, sizes.tiles.sum() / limits.tiles
    return Fill(
        mix=mix,
        packer=packer,
        tokens_per_sample=float(sizes.tokens.mean()),
        tiles_per_sample=float(sizes.tiles.mean()),
        packs=packs,
        over_bound=packs / max(token_packs, tile_packs),
        token_fill=token_packs / packs,
        tile_fill=tile_packs / packs,
        microseconds_per_sample=seconds / len(sizes.tokens) * 1e6,
    )


def costs(sizes: Sizes, limits: PackLimits, cost: PackCost) -> list[int]:
    """What the packs of a mix cost, in a seeded order as a stage's walk has it."""
    packs = by_windows(sizes, limits)
    return [
        cost.of(sizes.tokens[packs[place]].tolist(), int(sizes.tiles[packs[place]].sum()))
        for place in seeding.permutation(len(packs), 0).tolist()
    ]


def balance(batch: Sequence[int]) -> list[Balance]:
    """Work of the ranks that share one global batch, at each number of ranks that divides it."""
    spread = np.asarray(batch, dtype=np.float64) / np.mean(batch)
    arranged = spread[arrange(batch)]

    def excess(work: np.ndarray, ranks: int) -> float:
        of_ranks = work.reshape(-1, ranks).sum(axis=0)
        return float(of_ranks.max() / of_ranks.mean() - 1)

    counts = [ranks for ranks in range(2, len(batch) + 1) if len(batch) % ranks == 0]
    return [Balance(ranks, excess(spread, ranks), excess(arranged, ranks)) for ranks in counts]


def fill_table(fills: Sequence[Fill]) -> Table:
    """For a terminal."""
    table = Table(
        "mix", "tokens, tiles a sample", "packer", "packs", "of bound", "token fill", "tile fill", "µs/sample"
    )
    for fill in fills:
        table.add_row(
            fill.mix,
            f"{fill.tokens_per_sample:,.0f}, {fill.tiles_per_sample:.1f}",
            fill.packer,
            f"{fill.packs:,}",
            f"{fill.over_bound:.4f}",
            f"{fill.token_fill:.1%}",
            f"{fill.tile_fill:.1%}",
            f"{fill.microseconds_per_sample:.1f}",
        )
    return table


def balance_table(balances: Sequence[Balance], model: str) -> Table:
    """For a terminal."""
    table = Table("ranks", "in the walk's order", "arranged", title=f"most work of a rank over the mean, {model}")
    for entry in balances:
        table.add_row(str(entry.ranks), f"{entry.in_order:+.2%}", f"{entry.arranged:+.2%}")
    return table


if __name__ == "__main__":
    packing()
