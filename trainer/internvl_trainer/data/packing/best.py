"""Which samples of a window share a pack: as few packs as can be found fast, under two limits at once."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from internvl_trainer.data.packing.limits import PackLimits


def form_packs(tokens: Sequence[int], tiles: Sequence[int], limits: PackLimits) -> list[list[int]]:
    """Pack samples into few packs within the limits.

    Best fit, in up to three orders: by the scarcer resource of each sample, largest first, which is the best one as a
    rule; by tokens, longest first, for long text that competes with many tiles; and as drawn, for images of few sizes
    that do not add up to a pack's tiles. The order that takes the fewest packs wins, the first of those that take
    equally many. Integers alone decide, so the packs are the same on every machine.

    Args:
        tokens, tiles: sizes of each sample, as Python integers.
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

    def scarcest(position: int) -> tuple[int, int]:
        by_tokens, by_tiles = tokens[position] * limits.tiles, tiles[position] * limits.tokens
        return max(by_tokens, by_tiles), by_tokens + by_tiles

    def longest(position: int) -> tuple[int, int]:
        return tokens[position], tiles[position]

    fewest = fewest_packs(tokens, tiles, limits)
    drawn = range(len(tokens))
    best = _best_fit(sorted(drawn, key=scarcest, reverse=True), tokens, tiles, limits)
    for order in (sorted(drawn, key=longest, reverse=True), drawn):
        if len(best) > fewest:
            best = min(best, _best_fit(order, tokens, tiles, limits), key=len)
    return best


def fewest_packs(tokens: Sequence[int], tiles: Sequence[int], limits: PackLimits) -> int:
    """What no packing can do with less: all tokens, and all tiles, over what a pack holds."""
    return max(-(-sum(tokens) // limits.tokens), -(-sum(tiles) // limits.tiles) if limits.tiles else 0)


def _best_fit(order: Sequence[int], tokens: Sequence[int], tiles: Sequence[int], limits: PackLimits) -> list[list[int]]:
    """Put each sample, in order, into the pack that it leaves with the fewest free tiles, then the fewest free tokens.

    Open packs are kept by free tiles; in each list stand free tokens and the pack's number, as one integer each.
    """
    unit = len(tokens) + 1
    open_packs: list[list[int]] = [[] for _ in range(limits.tiles + 1)]
    packs: list[list[int]] = []
    for position in order:
        need, count = tokens[position] * unit, tiles[position]
        for free_tiles in range(count, limits.tiles + 1):
            candidates = open_packs[free_tiles]
            if candidates and candidates[-1] >= need:
                pack = candidates.pop(bisect_left(candidates, need))
                break
        else:
            free_tiles, pack = limits.tiles, limits.tokens * unit + len(packs)
            packs.append([])
        packs[pack % unit].append(position)
        insort(open_packs[free_tiles - count], pack - need)
    return packs
