"""A pack on the device: what is found in it on the way, and one that is made longer for its ranks to share evenly."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.model.batch import IGNORED, MicroBatch

pytestmark = pytest.mark.unit


def batch(lengths: list[int]) -> MicroBatch:
    """Segments of these lengths whose every other token is supervised, by the token after it; the first is an image."""
    index_S = np.arange(sum(lengths))
    return MicroBatch.of(
        index_S + 100,
        np.where(index_S % 2, index_S + 101, IGNORED),
        np.where(index_S % 2, index_S, 0).astype(np.float32),
        np.cumsum([0, *lengths], dtype=np.int32),
        image_token=100,
        device=torch.device("cpu"),
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_what_a_pack_trains_on_is_found_before_it_is_sent(lengths: list[int]) -> None:
    found = batch(lengths)
    odd = list(range(1, sum(lengths), 2))
    assert found.supervised_K.tolist() == odd
    assert found.targets_K.tolist() == [position + 101 for position in odd]
    assert found.weights_K.tolist() == odd
    assert [found.supervised_K.dtype, found.targets_K.dtype, found.weights_K.dtype] == [
        torch.int64,
        torch.int64,
        torch.float32,
    ]
    assert found.image_positions.tolist() == [0]
    assert found.longest == max(lengths)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([1, 2, 4, 8]))
def test_padding_is_a_segment_of_its_own_without_supervised_tokens(lengths: list[int], multiple: int) -> None:
    plain, size = batch(lengths), sum(lengths)
    padded = plain.padded(multiple)

    assert len(padded.tokens_S) % multiple == 0
    assert 0 <= len(padded.tokens_S) - size < multiple
    assert padded.tokens_S[:size].equal(plain.tokens_S)
    for name in ("supervised_K", "targets_K", "weights_K", "image_positions"):
        assert getattr(padded, name).equal(getattr(plain, name))

    added = [len(padded.tokens_S) - size] if size % multiple else []
    assert padded.cu_seqlens.dtype == torch.int32
    assert padded.cu_seqlens.diff().tolist() == lengths + added
    assert padded.packed.max_seqlen_q == max(lengths + added)


def test_a_pack_that_divides_already_is_left_alone() -> None:
    plain = batch([3, 5])
    assert plain.padded(4) is plain
