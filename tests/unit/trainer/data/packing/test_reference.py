"""The released trainer's packer, reproduced for comparison."""

from typing import Any

import pytest

from internvl_trainer.data.packing import reference_greedy
from tests.unit.trainer.data.world import golden

pytestmark = pytest.mark.unit

RUNS = golden("packing.json")["runs"]


@pytest.mark.parametrize("run", RUNS, ids=[run["name"] for run in RUNS])
def test_the_reference_packs_come_out_in_the_reference_order(run: dict[str, Any]) -> None:
    sizes = {number: (tokens, tiles) for data in run["datasets"] for number, tokens, tiles in data["samples"]}
    drawn, params = run["draw_order"], run["params"]

    packs = reference_greedy(
        [sizes[number] for number in drawn],
        max_tokens=params["max_packed_tokens"],
        max_tiles=params["num_images_expected"],
        buffer_size=params["max_buffer_size"],
        strict=params["strict_mode"],
    )

    for pack, expected in zip(packs, run["packed"], strict=True):
        held = [drawn[place] for place in pack.members]
        assert [[number, sizes[number][0]] for number in held] == expected["segments"]
        assert (pack.tokens, pack.tiles + pack.padding) == (expected["tokens"], expected["tiles"])
        owners = [number for number in held for _ in range(sizes[number][1])] + [0] * pack.padding
        assert expected["tile_owner"] in (None, owners)
    fill = sum(pack.tokens for pack in packs) / (len(packs) * params["max_packed_tokens"])
    assert fill == pytest.approx(run["stats"]["mean_fill"], abs=1e-6)


def test_a_sample_with_too_many_tiles_is_dropped_as_the_reference_does() -> None:
    packs = reference_greedy([(5, 1), (5, 7), (5, 2)], max_tokens=40, max_tiles=6, buffer_size=2)

    assert [pack.members for pack in packs] == [[0, 2]]


def test_a_sample_longer_than_a_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="sample 1 has 41 tokens; a pack holds at most 40"):
        reference_greedy([(5, 1), (41, 1)], max_tokens=40, max_tiles=6, buffer_size=2)
