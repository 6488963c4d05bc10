"""A pack that is made longer for its ranks to share it evenly stays the same pack."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.model.batch import IGNORED, MicroBatch

pytestmark = pytest.mark.unit


def batch(lengths: list[int]) -> MicroBatch:
    """Segments of these lengths whose every token is supervised."""
    tokens_S = torch.arange(sum(lengths)) + 100
    return MicroBatch(
        tokens_S=tokens_S,
        labels_S=tokens_S + 1,
        weights_S=torch.ones(len(tokens_S)),
        cu_seqlens=torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32),
        longest=max(lengths),
        image_positions=torch.tensor([0]),
        tiles_NPPC=None,
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([1, 2, 4, 8]))
def test_padding_is_a_segment_of_its_own_without_labels(lengths: list[int], multiple: int) -> None:
    plain, size = batch(lengths), sum(lengths)
    padded = plain.padded(multiple)

    assert len(padded.tokens_S) % multiple == 0
    assert 0 <= len(padded.tokens_S) - size < multiple
    for ours, theirs in [(padded.tokens_S, plain.tokens_S), (padded.labels_S, plain.labels_S)]:
        assert ours[:size].equal(theirs)
    assert padded.labels_S[size:].eq(IGNORED).all()
    assert padded.weights_S.sum() == plain.weights_S.sum()
    assert padded.image_positions.equal(plain.image_positions)

    added = [len(padded.tokens_S) - size] if size % multiple else []
    assert padded.cu_seqlens.dtype == torch.int32
    assert padded.cu_seqlens.diff().tolist() == lengths + added
    assert padded.packed.max_seqlen_q == max(lengths + added)


def test_a_pack_that_divides_already_is_left_alone() -> None:
    plain = batch([3, 5])
    assert plain.padded(4) is plain
