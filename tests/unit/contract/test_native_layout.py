"""The published checkpoints' names, shapes and parameter counts, against those of the reference implementation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry

pytestmark = pytest.mark.unit

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[2] / "golden" / "state_dict_keys.json").read_text())[
    "models"
]
SIZES = list(GOLDEN)


@pytest.mark.parametrize("size", SIZES)
def test_names_shapes_and_their_order_are_the_published_ones(size: str) -> None:
    ours: dict[str, list[Any]] = {}
    for name, shape in catalog.get(f"InternVL2_5-{size}").state_dict_shapes().items():
        found = ours.setdefault(re.sub(r"layers\.\d+\.", "layers.{i}.", name), [list(shape), 0])
        assert found[0] == list(shape), name
        found[1] += 1
    expected = {name: [row["shape"], row["count"]] for name, row in GOLDEN[size]["parameters"].items()}
    assert list(ours.items()) == list(expected.items())


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts_are_the_published_ones_to_the_unit(size: str) -> None:
    model, totals = catalog.get(f"InternVL2_5-{size}"), GOLDEN[size]["parameter_totals"]
    assert model.parameter_count() == totals["total"]
    assert model.parameter_count(Component.VISION) == totals["vision_model"]
    assert model.parameter_count(Component.LANGUAGE) == totals["language_model"]
    assert model.parameter_count(Component.PROJECTOR) == totals["mlp1"]


def test_layers_are_counted_from_nought_without_a_gap() -> None:
    names = catalog.get("InternVL2_5-78B").state_dict_shapes(Component.LANGUAGE)
    numbers = sorted({int(found[1]) for name in names if (found := re.search(r"layers\.(\d+)\.", name))})
    assert numbers == list(range(80))


def test_what_a_model_is_in_a_document_has_not_grown() -> None:
    assert set(catalog.get("InternVL2_5-8B").model_dump()) == {
        "name", "vision", "language", "downsample_ratio", "projector_norm_eps",
    }  # fmt: skip


def test_a_size_is_added_by_saying_its_geometry() -> None:
    language = LanguageGeometry(
        family="qwen2.5", layers=48, hidden=5120, heads=40, kv_heads=8, head_dim=128, ffn=13824, vocab_size=151674
    )
    model = ModelGeometry(name="InternVL3-14B", vision=catalog.INTERN_VIT_300M, language=language)
    shapes = model.state_dict_shapes()
    assert shapes["language_model.model.layers.47.mlp.down_proj.weight"] == (5120, 13824)
    assert shapes["mlp1.1.weight"] == (5120, 4096)
    # Qwen2.5-14B has 14,770,033,664 parameters by its publisher's count, with 152,064 rows in embedding and head each.
    assert model.parameter_count(Component.LANGUAGE) == 14_770_033_664 - 2 * (152_064 - 151_674) * 5120
    assert model.language.tokenizer.added("<IMG_CONTEXT>") == 151667
