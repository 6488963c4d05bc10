"""Ids that occur twice in a data set are found without holding all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.curation.check.duplicates import NO_ID, Repeated, find_duplicates, hash_id

pytestmark = pytest.mark.unit


@given(ids=st.lists(st.one_of(st.none(), st.integers(0, 12))), together=st.integers(1, 20), most=st.integers(0, 5))
def test_each_sample_whose_id_an_earlier_one_has_is_found(ids: list[int | None], together: int, most: int) -> None:
    found = find_duplicates(np.array([hash_id(each) for each in ids], dtype=np.uint64), most=most, together=together)
    expected = [
        Repeated(row, ids.index(each)) for row, each in enumerate(ids) if each is not None and each in ids[:row]
    ]
    assert found.samples == len(expected)
    assert found.first == tuple(expected[:most])


def test_an_id_is_what_it_reads_as() -> None:
    assert hash_id(7) == hash_id("7") != hash_id("8")
    assert hash_id(None) == NO_ID != hash_id("")


def test_an_id_may_be_any_text_that_json_allows() -> None:
    assert hash_id("\ud800") != hash_id("?")
