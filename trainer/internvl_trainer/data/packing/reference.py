"""The released trainer's packer, for comparison: training packs by `form_packs`.

Source: InternVL-2.5 report, section 4.2, and the released behaviour of OpenGVLab/InternVL: open packs ordered by
falling tile count, first fit, limits inclusive, a buffer of open packs kept for samples to come.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class ReferencePack:
    """One pack as the released trainer emits it."""

    tokens: int = 0
    tiles: int = 0
    members: list[int] = field(default_factory=list)
    """Which samples it holds, by their place in the drawing order, in the order in which they were added."""
    padding: int = 0
    """Blank tiles behind the samples' own; strict mode alone adds them."""


def reference_greedy(
    samples: Iterable[tuple[int, int]], *, max_tokens: int, max_tiles: int, buffer_size: int, strict: bool = False
) -> list[ReferencePack]:
    """Pack samples in drawing order exactly as the released trainer does, overflow off.

    Args:
        samples: (tokens, tiles) of each, in drawing order. The released trainer counts one blank tile for text.
        max_tokens: `max_packed_tokens`.
        max_tiles: `num_images_expected`. A sample with more by itself is dropped.
        buffer_size: `max_buffer_size`, the most packs that wait for samples.
        strict: `strict_mode`: fill each pack up with blank tiles. Tokens are padded later, by the collation.

    Returns:
        Packs in the order in which they are emitted.

    Raises:
        ValueError: a sample has more tokens than a pack; the released trainer cuts samples before it packs them.
    """
    waiting: list[ReferencePack] = []  # falling tile count; a newer pack stands behind older ones of the same count
    emitted: list[ReferencePack] = []
    for place, (tokens, tiles) in enumerate(samples):
        if tokens > max_tokens:
            raise ValueError(f"sample {place} has {tokens} tokens; a pack holds at most {max_tokens}")
        if tiles > max_tiles:
            continue
        pack = _take_first_fit(waiting, max_tokens - tokens, max_tiles - tiles)
        pack.members.append(place)
        pack.tokens += tokens
        pack.tiles += tiles
        if pack.tokens == max_tokens or pack.tiles == max_tiles:
            emitted.append(pack)
            continue
        _insert(waiting, pack)
        if len(waiting) > buffer_size:
            emitted.append(waiting.pop(0))
    emitted += waiting
    if strict:
        for pack in emitted:
            pack.padding = max_tiles - pack.tiles
    return emitted


def _take_first_fit(waiting: list[ReferencePack], tokens: int, tiles: int) -> ReferencePack:
    """Take out the first pack that has at most so many tokens and tiles, or a new one."""
    for place, pack in enumerate(waiting):
        if pack.tiles <= tiles and pack.tokens <= tokens:
            return waiting.pop(place)
    return ReferencePack()


def _insert(waiting: list[ReferencePack], pack: ReferencePack) -> None:
    for place, other in enumerate(waiting):
        if other.tiles < pack.tiles:
            waiting.insert(place, pack)
            return
    waiting.append(pack)
