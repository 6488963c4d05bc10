"""What a report counts in the rows of indexes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.curation.report import count as counting
from internvl_trainer.curation.report.count import count
from internvl_trainer.data.packing import PackLimits
from internvl_trainer.data.records import Kind
from tests.unit.trainer.curation.mixtures import rows

pytestmark = pytest.mark.unit

LIMITS = PackLimits(tokens=40, tiles=7)
SAMPLES = st.lists(
    st.tuples(st.sampled_from(Kind), st.integers(1, 40), st.integers(0, 7), st.sampled_from([0, 0, 0, 1, 9]))
)


@given(samples=SAMPLES)
def test_every_good_sample_counts_once_by_its_kind_tokens_and_tiles(samples: list[tuple[Kind, int, int, int]]) -> None:
    counted = count(rows(samples), LIMITS)
    for kind in Kind:
        good = [(tokens, tiles) for of, tokens, tiles, reason in samples if of is kind and not reason]
        assert counted.samples[kind] == len(good)
        assert counted.tokens[kind] == sum(tokens for tokens, _ in good)
        assert counted.tiles[kind] == sum(tiles for _, tiles in good)
    assert counted.rows == len(samples)
    assert counted.reasons_R[9] == sum(reason == 9 for *_, reason in samples)


@given(samples=SAMPLES)
def test_rows_may_be_counted_in_any_portions(samples: list[tuple[Kind, int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole = count(rows(samples), LIMITS)
        patch.setattr(counting, "CHUNK", 3)
        portions = count(rows(samples), LIMITS)
    assert np.array_equal(whole.lengths_KL, portions.lengths_KL)
    assert np.array_equal(whole.tiles_KT, portions.tiles_KT)
    assert np.array_equal(whole.reasons_R, portions.reasons_R)


def test_an_index_of_other_limits_is_refused() -> None:
    with pytest.raises(ValueError, match="a sample of size 41, more than a pack's 40; index again"):
        count(rows([(Kind.TEXT, 41, 0, 0)]), LIMITS)


def test_what_a_bad_sample_measures_means_nothing() -> None:
    assert count(rows([(Kind.TEXT, 9999, 99, 1)]), LIMITS).samples.sum() == 0
