"""Which packs a rank trains on, and what is refused before a step."""

import numpy as np
import pytest

from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.data.pack import Pack
from internvl_trainer.engine.parallel import Place
from internvl_trainer.engine.placeholders import check_placeholders
from internvl_trainer.model.errors import VisualTokenMismatchError

pytestmark = pytest.mark.unit

TINY = MODELS["tiny-8b-like"]
IMAGE = 7


def pack(placeholders: list[int], tiles: int) -> Pack:
    """A pack of one sample per entry, each with so many placeholders and two words."""
    samples = [np.array([1, *[IMAGE] * count, 2]) for count in placeholders]
    tokens = np.concatenate(samples)
    bounds = np.cumsum([0, *map(len, samples)]).astype(np.int32)
    names = tuple(f"sample-{number}" for number in range(len(samples)))
    of_segments = (tiles, *[0] * (len(samples) - 1))
    return Pack(5, names, tokens, tokens * 0 - 100, tokens * np.float32(0), bounds, None, of_segments)


@pytest.mark.parametrize("data_size", [1, 2, 4])
def test_every_pack_of_a_global_batch_goes_to_one_rank(data_size: int) -> None:
    ranks = [Place(0, 1, 0, rank, data_size, True, True) for rank in range(data_size)]
    per_rank = [place.pack_indices(step=3, global_batch=8) for place in ranks]
    assert sorted(index for indices in per_rank for index in indices) == list(range(24, 32))
    # Micro-batch m of rank r is pack m * data_size + r of the step: the stream is the same at any size.
    assert all(indices == list(range(24 + rank, 32, data_size)) for rank, indices in enumerate(per_rank))


def test_one_rank_of_each_replica_decodes_tiles_and_one_of_all_reports() -> None:
    first = Place(0, 8, tensor_rank=0, data_rank=1, data_size=2, first_stage=True, last_stage=False)
    assert first.needs_tiles
    assert not first.reports
    last = Place(6, 8, tensor_rank=0, data_rank=0, data_size=2, first_stage=False, last_stage=True)
    assert last.reports
    assert not last.needs_tiles


def test_packs_whose_placeholders_match_their_tiles_pass() -> None:
    check_placeholders([pack([16, 32], 3), pack([0], 0)], TINY, IMAGE)


def test_the_sample_that_is_off_is_named() -> None:
    with pytest.raises(VisualTokenMismatchError, match=r"pack 5 has 47 .* 3 tiles x 16 = 48 .*: sample-1\.") as caught:
        check_placeholders([pack([16, 31], 3)], TINY, IMAGE)
    assert caught.value.samples == ("sample-1",)


def test_where_whole_tiles_are_missing_every_sample_of_the_pack_is_named() -> None:
    with pytest.raises(VisualTokenMismatchError, match="sample-0, sample-1"):
        check_placeholders([pack([16, 16], 3)], TINY, IMAGE)
