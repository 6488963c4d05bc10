"""Which samples of a window share a pack: as few packs as can be found fast, under two limits at once."""

from collections.abc import Sequence

from internvl_trainer.data.packing.limits import PackLimits
from internvl_trainer.data.packing.reference import reference_greedy


def form_packs(tokens: Sequence[int], tiles: Sequence[int], limits: PackLimits) -> list[list[int]]:
    """Pack samples into few packs within the limits. A pure function: integers alone decide.

    Args:
        tokens, tiles: sizes of each sample.
        limits: of one pack, inclusive.

    Returns:
        Packs, each a list of positions, every position exactly once.

    Raises:
        ValueError: a sample alone exceeds a limit.
    """
    for position, (size, count) in enumerate(zip(tokens, tiles, strict=True)):
        if size > limits.tokens or count > limits.tiles:
            raise ValueError(
                f"sample at position {position} has {size} tokens and {count} tiles; a pack holds at most "
                f"{limits.tokens} and {limits.tiles}"
            )
    packs = reference_greedy(
        zip(tokens, tiles, strict=True), max_tokens=limits.tokens, max_tiles=limits.tiles, buffer_size=len(tokens)
    )
    return [pack.members for pack in packs]
