"""Operations of a pack: the published sizes' figures, each stage's multipliers, and MFU."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.flops import (
    PackLoad,
    Passes,
    forward_flops,
    hardware_passes,
    mfu,
    model_passes,
    sharded_flops,
    tile_flops,
)
from internvl_trainer.contract.job import PartitionConfig, RecomputeConfig

pytestmark = pytest.mark.unit

VISION, PROJECTOR, LANGUAGE = Component
STAGE_1, STAGE_1_5, STAGE_2 = (PROJECTOR,), (VISION, PROJECTOR), tuple(Component)
REFERENCE_LOAD = PackLoad(tokens=16384, squares=16384 * 2000, tiles=48, head_tokens=16384)
"""What the reference figures are for: 16,384 tokens in samples of 2,000 on average, 48 tiles, a head everywhere."""

# As printed: TFLOP of ViT and LLM, ViT share in %, PFLOP per pack at stages 1, 1.5 and 2, ViT in language layers.
REFERENCE = {
    "InternVL2_5-1B": ("34.7", "17.6", "66", ".07", ".14", ".16", "63.5"),
    "InternVL2_5-2B": ("34.7", "58.9", "37", ".15", ".22", ".28", "15.8"),
    "InternVL2_5-4B": ("34.7", "105.9", "25", ".25", ".32", ".42", "13.1"),
    "InternVL2_5-8B": ("34.7", "249.7", "12", ".54", ".61", ".86", "4.7"),
    "InternVL2_5-26B": ("573", "652", "47", "1.9", "3.0", "3.7", "43.5"),
    "InternVL2_5-38B": ("573", "1.07e3", "35", "2.7", "3.9", "4.9", "35.1"),
    "InternVL2_5-78B": ("573", "2384", "19", "5.4", "6.5", "8.9", "19.6"),
}


def printed(figure: str) -> object:
    """A printed figure, to half of its last digit.

    The reference rounded a few figures twice (651.49 to 652, 11.945 to 11.95): they are off by 0.01 % beyond that.
    """
    last_digit = Decimal(figure).as_tuple().exponent
    assert isinstance(last_digit, int)
    return pytest.approx(float(figure), rel=0, abs=0.5 * 10**last_digit + 1e-4 * float(figure))


@pytest.mark.parametrize("name", REFERENCE)
def test_the_operations_of_a_full_pack_are_those_of_the_reference_table(name: str) -> None:
    vision, language, share, stage_1, stage_1_5, stage_2, units = REFERENCE[name]
    flops = forward_flops(catalog.get(name), REFERENCE_LOAD)
    assert flops.vision / 1e12 == printed(vision)
    assert flops.language / 1e12 == printed(language)
    assert 100 * flops.vision / flops.total == printed(share)
    assert flops.times(model_passes(STAGE_1)) / 1e15 == printed(stage_1)
    assert flops.times(model_passes(STAGE_1_5)) / 1e15 == printed(stage_1_5)
    assert flops.times(model_passes(STAGE_2)) / 1e15 == printed(stage_2)
    assert flops.vision / flops.layer == printed(units)


def test_one_tile_costs_0_724_or_11_95_teraflop() -> None:
    assert tile_flops(catalog.INTERN_VIT_300M) / 1e12 == printed("0.724")
    assert tile_flops(catalog.INTERN_VIT_6B) / 1e12 == printed("11.95")


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        (STAGE_1, Passes(vision=1, projector=3, layers=2, head=2)),
        (STAGE_1_5, Passes(3, 3, 2, 2)),
        (STAGE_2, Passes(3, 3, 3, 3)),
        ((LANGUAGE,), Passes(1, 1, 3, 3)),
        ((VISION,), Passes(3, 2, 2, 2)),
        ((PROJECTOR, LANGUAGE), Passes(1, 3, 3, 3)),
    ],
)
def test_a_frozen_part_costs_a_data_gradient_only_where_something_trainable_feeds_it(
    trainable: tuple[Component, ...], expected: Passes
) -> None:
    assert model_passes(trainable) == expected


@pytest.mark.parametrize(("mode", "vision", "projector"), [("none", 3, 3), ("layers", 4, 3), ("whole", 5, 4)])
def test_recompute_adds_forward_passes_to_what_the_hardware_does(mode: str, vision: int, projector: int) -> None:
    recompute = RecomputeConfig.model_validate({"vision": mode, "language": "layers"})
    assert hardware_passes(STAGE_2, recompute) == Passes(vision, projector, 4, 3)
    assert hardware_passes(STAGE_1, recompute) == Passes(1, 3, 3, 2), "a frozen encoder keeps nothing"


def test_counting_three_passes_everywhere_would_overstate_stage_1_by_what_the_reference_says() -> None:
    for name, overstatement in (("InternVL2_5-1B", 2.3), ("InternVL2_5-8B", 1.6)):
        flops = forward_flops(catalog.get(name), REFERENCE_LOAD)
        ratio = flops.times(model_passes(STAGE_2)) / flops.times(model_passes(STAGE_1))
        assert ratio == pytest.approx(overstatement, abs=0.1)


def test_25_heads_cost_a_tenth_more_on_8_ranks_and_nothing_more_where_tiles_are_shared() -> None:
    model = catalog.get("InternVL2_5-26B")
    plain = forward_flops(model, REFERENCE_LOAD)
    padded = sharded_flops(model, REFERENCE_LOAD, 8, PartitionConfig(vision="tensor"))
    assert padded.vision / plain.vision == pytest.approx(1.10, abs=0.005)
    assert padded.layer == plain.layer
    assert sharded_flops(model, REFERENCE_LOAD, 8, PartitionConfig(vision="tiles")) == plain
    assert sharded_flops(model, REFERENCE_LOAD, 1, PartitionConfig()) == plain


def test_mfu_is_the_stages_own_operations_over_the_devices_peak() -> None:
    model = catalog.get("InternVL2_5-8B")
    seconds = REFERENCE_LOAD.tokens / 7570
    assert mfu(model, REFERENCE_LOAD, STAGE_2, seconds, 989e12) == pytest.approx(0.40, rel=0.001), "7,570 tokens/s"
    assert mfu(model, REFERENCE_LOAD, STAGE_1, seconds, 989e12) == pytest.approx(0.25, abs=0.01), "1.6 times less work"


@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=8), tiles=st.integers(0, 8))
def test_packs_add_up_and_cutting_a_segment_only_makes_attention_cheaper(lengths: list[int], tiles: int) -> None:
    model = catalog.get("InternVL2_5-2B")
    whole = forward_flops(model, PackLoad.of_segments([sum(lengths)], tiles))
    cut = forward_flops(model, PackLoad.of_segments(lengths, tiles))
    apart = [forward_flops(model, PackLoad.of_segments([n], 0)) for n in lengths]
    assert cut.language == sum(flops.language for flops in apart)
    assert cut.language <= whole.language
    assert cut.vision == whole.vision


def test_a_full_pack_has_no_more_tiles_than_their_tokens_leave_room_for() -> None:
    model = catalog.get("InternVL2_5-8B")
    assert PackLoad.full(model, 16384, 48) == PackLoad(16384, 16384 * 2000, 48, head_tokens=16384 - 48 * 256)
    assert PackLoad.full(model, 1024, 48) == PackLoad(1024, 1024 * 1024, 4, head_tokens=0)
