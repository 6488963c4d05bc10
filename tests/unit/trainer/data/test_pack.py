"""Taking samples out of a pack: their segments go, and nothing else moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data.errors import ImageUnreadableError
from internvl_trainer.data.pack import FILLER, Pack

pytestmark = pytest.mark.unit

SIDE = 2


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    """A pack of one to six samples; every token, label, weight and pixel says which sample it is of."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    tiles = tuple(draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths))))
    of_S = np.repeat(np.arange(len(lengths)), lengths)
    of_N = np.repeat(np.arange(len(lengths)), tiles).astype(np.uint8)
    pixels = np.broadcast_to(of_N[:, None, None, None], (len(of_N), SIDE, SIDE, 3)).copy()
    return Pack(
        index=9,
        sample_ids=tuple(f"set:{number}" for number in range(len(lengths))),
        tokens_S=of_S * 10 + 3,
        labels_S=of_S + 100,
        weights_S=of_S.astype(np.float32) + 1,
        cu_seqlens=np.cumsum([0, *lengths]).astype(np.int32),
        tiles_NHWC=draw(st.sampled_from([pixels, None])),
        segment_tiles=tiles,
    )


@st.composite
def packs_and_masks(draw: st.DrawFn, masks: int) -> tuple[Pack, list[set[int]]]:
    """A pack and some sets of its samples."""
    pack = draw(packs())
    return pack, [draw(st.sets(st.integers(0, pack.formed_of - 1))) for _ in range(masks)]


def segments(pack: Pack) -> dict[str, tuple[list[int], list[int], list[float], list[int] | None]]:
    """Tokens, labels, weights and tiles of each sample, by its name."""
    ends = np.cumsum(pack.segment_tiles)
    found = {}
    for number, name in enumerate(pack.sample_ids):
        span = slice(*pack.cu_seqlens[number : number + 2])
        tiles = slice(ends[number] - pack.segment_tiles[number], ends[number])
        pixels = None if pack.tiles_NHWC is None else pack.tiles_NHWC[tiles, 0, 0, 0].tolist()
        found[name] = (
            pack.tokens_S[span].tolist(), pack.labels_S[span].tolist(), pack.weights_S[span].tolist(), pixels,
        )  # fmt: skip
    return found


@given(packs_and_masks(1))
def test_what_stays_is_as_it_was_and_what_goes_is_gone(given_pack: tuple[Pack, list[set[int]]]) -> None:
    pack, (gone,) = given_pack
    left = pack.without(gone)
    expected = {name: parts for number, (name, parts) in enumerate(segments(pack).items()) if number not in gone}
    assert segments(left) == expected
    assert left.masked == tuple(sorted(gone))
    assert (left.index, left.formed_of) == (pack.index, pack.formed_of)


@given(packs_and_masks(1))
def test_the_result_is_consistent_in_itself(given_pack: tuple[Pack, list[set[int]]]) -> None:
    pack, (gone,) = given_pack
    left = pack.without(gone)
    count = len(left.tokens_S)
    assert left.cu_seqlens[0] == 0
    assert left.cu_seqlens[-1] == count == len(left.labels_S) == len(left.weights_S) > 0
    assert (np.diff(left.cu_seqlens) > 0).all()
    assert len(left.segment_tiles) == len(left.cu_seqlens) - 1
    before, after = (
        [array.dtype for array in (each.tokens_S, each.labels_S, each.weights_S, each.cu_seqlens)]
        for each in (pack, left)
    )
    assert before == after
    if pack.tiles_NHWC is not None:
        assert left.tiles_NHWC is not None
        assert left.tiles_NHWC.shape == (left.tile_count, SIDE, SIDE, 3)


@given(packs_and_masks(2))
def test_in_two_steps_is_as_in_one(given_pack: tuple[Pack, list[set[int]]]) -> None:
    pack, (first, second) = given_pack
    stepwise, at_once = pack.without(first).without(second), pack.without(first | second)
    assert segments(stepwise) == segments(at_once)
    assert stepwise.masked == at_once.masked
    assert stepwise.tokens_S.tolist() == at_once.tokens_S.tolist()


@given(packs())
def test_a_pack_that_loses_all_is_one_token_that_nothing_is_learned_from(pack: Pack) -> None:
    left = pack.without(range(pack.formed_of))
    assert (left.tokens_S.tolist(), left.labels_S.tolist(), left.weights_S.tolist()) == ([FILLER], [-100], [0.0])
    assert (left.cu_seqlens.tolist(), left.sample_ids, left.tile_count) == ([0, 1], (), 0)
    assert (left.tiles_NHWC is None) == (pack.tiles_NHWC is None)
    assert left.without([0]).masked == left.masked == tuple(range(pack.formed_of))


@given(packs())
def test_taking_nothing_out_copies_nothing(pack: Pack) -> None:
    assert pack.without([]) is pack


@given(packs())
def test_a_sample_that_the_pack_was_not_formed_of_is_refused(pack: Pack) -> None:
    with pytest.raises(
        IndexError, match=rf"pack 9 was formed of {pack.formed_of} samples; there is no {pack.formed_of}"
    ):
        pack.without([pack.formed_of])


@given(packs_and_masks(1))
def test_reasons_stay_with_the_pack(given_pack: tuple[Pack, list[set[int]]]) -> None:
    pack, (gone,) = given_pack
    fault = ImageUnreadableError("set:7", "image x.png cannot be decoded")
    known = Pack(**{**pack.__dict__, "skipped": (fault,)})
    assert known.without(gone).skipped == (fault,)
