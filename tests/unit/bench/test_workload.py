"""The packs that contenders train on, and the samples they are made of."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.workload import IGNORED, IMAGE_TOKEN, Workload, unpacked
from internvl_trainer.contract import catalog

pytestmark = pytest.mark.unit

TINY = catalog.get("tiny-8b-like")

workloads = st.builds(
    lambda tokens, tiles, mean: (tokens, tiles, mean), st.integers(64, 600), st.integers(0, 12), st.integers(16, 200)
)


def workload(tokens: int, tiles: int, mean: int) -> Workload:
    try:
        return Workload(TINY, tokens, tiles, mean)
    except ValueError:
        assume(False)
        raise


@given(sizes=workloads, index=st.integers(0, 1000))
def test_a_pack_is_full_to_the_last_token_and_tile(sizes: tuple[int, int, int], index: int) -> None:
    load = workload(*sizes)
    pack = load.pack(index)
    assert len(pack.tokens_S) == pack.cu_seqlens[-1] == load.tokens
    assert pack.tile_count == load.tiles
    assert (pack.tokens_S == IMAGE_TOKEN).sum() == load.tiles * TINY.tokens_per_tile
    assert len(pack.sample_ids) == load.samples == len(pack.cu_seqlens) - 1
    assert np.array_equal(pack.weights_S > 0, pack.labels_S != IGNORED)


@given(sizes=workloads, index=st.integers(0, 1000))
def test_unpacked_samples_are_the_same_tokens_tiles_and_supervised_positions(
    sizes: tuple[int, int, int], index: int
) -> None:
    pack = workload(*sizes).pack(index)
    samples = list(unpacked(pack, TINY.tokens_per_tile))
    assert np.array_equal(np.concatenate([sample.tokens_s for sample in samples]), pack.tokens_S)
    assert np.array_equal(np.concatenate([sample.tiles_NHWC for sample in samples]), pack.tiles_NHWC)
    for sample in samples:
        supervised = sample.labels_s != IGNORED
        assert supervised.any()
        assert np.array_equal(sample.labels_s[supervised], sample.tokens_s[supervised])
    assert sum((sample.labels_s != IGNORED).sum() for sample in samples) == (pack.labels_S != IGNORED).sum()


def test_samples_differ_in_length_and_packs_from_each_other() -> None:
    load = Workload(TINY, 2048, 48, 256)
    first, second = load.pack(0), load.pack(1)
    assert len(set(np.diff(first.cu_seqlens))) > 4
    assert not np.array_equal(first.tokens_S, second.tokens_S)
    assert np.array_equal(first.tokens_S, load.pack(0).tokens_S)


def test_tiles_that_leave_no_room_for_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"48 tiles x 16 visual tokens leave 2 of 770 tokens.*fewer tiles"):
        Workload(TINY, 770, 48, 256)
