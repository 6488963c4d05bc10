"""A place in the data is a few integers, and nothing else is taken for one."""

import pytest
from pydantic import ValidationError

from internvl_trainer.contract.data_position import DataPosition

pytestmark = pytest.mark.unit


def test_a_stage_begins_at_the_first_pack() -> None:
    assert set(DataPosition().model_dump().values()) == {0}


def test_a_position_comes_back_from_its_json() -> None:
    position = DataPosition(packs=7, epoch=1, window=2, taken=3, samples=40, skipped=1)

    assert DataPosition.from_bytes(position.to_bytes()) == position


@pytest.mark.parametrize("value", [-1, 1.0, "1", True, None])
def test_anything_but_a_count_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        DataPosition.model_validate({"packs": value})
