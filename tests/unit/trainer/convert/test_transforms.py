"""Every arrangement of rows can be undone bit for bit, for weights and biases, in any dtype and size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.convert.transforms import GroupedQKV, LeadingOnes, QKVPerHead, Same, Stacked, Transform

pytestmark = pytest.mark.unit

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
COLUMNS = st.one_of(st.just(()), st.tuples(st.integers(1, 5)))
SIZE = st.integers(1, 6)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Transform, tuple[int, ...]]:
    """A transform and a shape of ours that it can be about."""
    columns = draw(COLUMNS)
    groups, queries, head_dim, rows = draw(SIZE), draw(SIZE), draw(SIZE), draw(SIZE)
    return draw(
        st.sampled_from(
            [
                (Same("x"), (rows, *columns)),
                (LeadingOnes("x", axes=2), (rows, *columns)),
                (Stacked(("x", "y")), (2 * rows, *columns)),
                (QKVPerHead("x", groups), (3 * groups * head_dim, *columns)),
                (GroupedQKV(("q", "k", "v"), groups, head_dim), (groups * (queries + 2) * head_dim, *columns)),
            ]
        )
    )


@given(cases(), DTYPES, st.integers(0, 2**31))
def test_ours_to_theirs_and_back(case: tuple[Transform, tuple[int, ...]], dtype: torch.dtype, seed: int) -> None:
    transform, shape = case
    ours = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    parts = transform.split(ours)
    assert tuple(tuple(part.shape) for part in parts) == transform.shapes(shape)
    assert len(parts) == len(transform.names)
    merged = transform.merge(parts)
    assert merged.dtype == dtype
    assert torch.equal(merged, ours)


@given(cases(), DTYPES, st.integers(0, 2**31))
def test_theirs_to_ours_and_back(case: tuple[Transform, tuple[int, ...]], dtype: torch.dtype, seed: int) -> None:
    transform, shape = case
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(part, generator=generator).to(dtype) for part in transform.shapes(shape)]
    merged = transform.merge(parts)
    assert tuple(merged.shape) == shape
    assert all(torch.equal(a, b) for a, b in zip(transform.split(merged), parts, strict=True))


def test_each_head_gets_its_query_key_and_value() -> None:
    fused = torch.tensor([0, 1, 10, 11, 20, 21])  # two heads of one row: q0 q1 k0 k1 v0 v1
    assert QKVPerHead("x", heads=2).merge([fused]).tolist() == [0, 10, 20, 1, 11, 21]


def test_each_group_gets_its_queries_then_its_key_then_its_value() -> None:
    transform = GroupedQKV(("q", "k", "v"), groups=2, head_dim=1)
    merged = transform.merge([torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11]), torch.tensor([20, 21])])
    assert merged.tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_a_bias_is_arranged_as_the_rows_of_its_weight() -> None:
    transform = GroupedQKV(("q", "k", "v"), groups=2, head_dim=3)
    rows = torch.arange(2 * (2 + 2) * 3)
    weight = rows[:, None].expand(-1, 7)
    for of_bias, of_weight in zip(transform.split(rows), transform.split(weight), strict=True):
        assert torch.equal(of_weight, of_bias[:, None].expand(-1, 7))
