"""Start weights from whole models and bare parts: heads that were tied, other vocabularies, other tiles."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.tensors import WholeTensor
from internvl_trainer.convert import tables
from internvl_trainer.convert.errors import MissingTensorError, UnsupportedModelError
from internvl_trainer.convert.folder import HuggingFaceFolder
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.convert.sources import EMBEDDING, HEAD, POSITION, Source, fit_embedding, fit_head, folder_source
from internvl_trainer.convert.write_config import documents
from internvl_trainer.storage import open_store
from tests.unit.trainer.convert.models import MODELS, values, write

pytestmark = pytest.mark.unit

QWEN, INTERNLM = MODELS[0], MODELS[1]


def fresh(tensor: WholeTensor) -> torch.Tensor:
    return torch.full(tensor.shape, 7.0)


def resize(position_PH: torch.Tensor, side_from: int, side_to: int) -> torch.Tensor:
    """Stands in for interpolation: says what it was asked."""
    assert position_PH.size(0) == 1 + side_from**2
    return position_PH if side_from == side_to else torch.full((1 + side_to**2, position_PH.size(1)), float(side_from))


def bare(folder: Path, model: ModelGeometry, component: Component, **config: Any) -> dict[str, torch.Tensor]:
    """A folder of one component with random weights, as the library writes it; returns them."""
    mappings = tables.bare_mappings(model, component)
    rows = [row for each in mappings for row in zip(each.names, each.shapes, strict=True)]
    tensors = {name: values(shape, seed) for seed, (name, shape) in enumerate(rows)}
    if config.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    folder.mkdir()
    document = documents(model, Layout.NATIVE, component=component, dtype="float32")["config.json"] | config
    (folder / "config.json").write_text(json.dumps(document))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def with_vocabulary(model: ModelGeometry, rows: int) -> ModelGeometry:
    return model.model_copy(update={"language": model.language.model_copy(update={"vocab_size": rows})})


def with_tiles(model: ModelGeometry, side: int) -> ModelGeometry:
    return model.model_copy(update={"vision": model.vision.model_copy(update={"image_size": side})})


def source(folder: Path, model: ModelGeometry, *components: Component) -> Source:
    opened = HuggingFaceFolder(str(folder), open_store())
    return folder_source(opened, model, components, fresh=fresh, resize=resize)


def whole(model: ModelGeometry, key: str) -> WholeTensor:
    return next(each.tensor for each in tables.mappings(model, Layout.NATIVE) if each.tensor.key == key)


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_whole_model_gives_every_tensor_as_it_is(model: ModelGeometry, layout: Layout, tmp_path: Path) -> None:
    ours = write(tmp_path / "hf", model, layout)
    get = source(tmp_path / "hf", model, *Component)
    for mapping in tables.mappings(model, Layout.NATIVE):
        assert torch.equal(get(mapping.tensor), ours[mapping.tensor.key, mapping.tensor.layer])


def test_a_tied_base_gives_its_embedding_as_the_head(tmp_path: Path) -> None:
    tensors = bare(tmp_path / "llm", QWEN, Component.LANGUAGE, tie_word_embeddings=True)
    get = source(tmp_path / "llm", QWEN, Component.LANGUAGE)
    assert torch.equal(get(whole(QWEN, HEAD)), tensors["model.embed_tokens.weight"])


def test_a_vocabulary_with_surplus_rows_is_cut(tmp_path: Path) -> None:
    base = with_vocabulary(QWEN, QWEN.language.vocab_size + 30)
    tensors = bare(tmp_path / "llm", base, Component.LANGUAGE)
    get = source(tmp_path / "llm", QWEN, Component.LANGUAGE)
    rows = QWEN.language.vocab_size
    assert torch.equal(get(whole(QWEN, EMBEDDING)), tensors["model.embed_tokens.weight"][:rows])
    head = get(whole(QWEN, HEAD))
    assert torch.equal(head[: rows - 9], tensors["lm_head.weight"][: rows - 9])
    torch.testing.assert_close(head[-9:], tensors["lm_head.weight"][: rows - 9].mean(0).expand(9, -1))


def test_a_vocabulary_without_the_added_tokens_is_grown(tmp_path: Path) -> None:
    base = with_vocabulary(INTERNLM, INTERNLM.language.vocab_size - 9)
    tensors = bare(tmp_path / "llm", base, Component.LANGUAGE)
    get = source(tmp_path / "llm", INTERNLM, Component.LANGUAGE)
    embedding, head = get(whole(INTERNLM, EMBEDDING)), get(whole(INTERNLM, HEAD))
    assert torch.equal(embedding[:-9], tensors["model.tok_embeddings.weight"])
    assert (embedding[-9:] == 7.0).all()
    assert torch.equal(head[:-9], tensors["output.weight"])
    torch.testing.assert_close(head[-9:], tensors["output.weight"].mean(0).expand(9, -1))


def test_positions_are_resized_for_tiles_of_another_size(tmp_path: Path) -> None:
    bare(tmp_path / "vit", QWEN, Component.VISION)  # 56 px tiles: 4 x 4 patches
    larger = with_tiles(QWEN, 84)
    get = source(tmp_path / "vit", larger, Component.VISION)
    position = get(whole(larger, POSITION))
    assert position.shape == whole(larger, POSITION).shape
    assert (position == 4.0).all()


def test_a_whole_model_may_have_stored_other_tiles_than_it_runs_on(tmp_path: Path) -> None:
    write(tmp_path / "hf", QWEN, Layout.NATIVE)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"force_image_size": 84}))
    larger = with_tiles(QWEN, 84)
    assert HuggingFaceFolder(str(tmp_path / "hf"), open_store()).description.model(QWEN.name) == larger
    assert (source(tmp_path / "hf", larger, *Component)(whole(larger, POSITION)) == 4.0).all()


def test_one_component_of_a_whole_model_can_be_taken(tmp_path: Path) -> None:
    ours = write(tmp_path / "hf", MODELS[1], Layout.NATIVE)  # the same vision encoder, another language model
    get = source(tmp_path / "hf", QWEN, Component.VISION)
    assert torch.equal(get(whole(QWEN, POSITION)), ours[POSITION, None])


def test_another_model_s_part_is_refused_with_what_differs(tmp_path: Path) -> None:
    bare(tmp_path / "llm", QWEN, Component.LANGUAGE)
    with pytest.raises(UnsupportedModelError, match=r"holds language, not vision; give another folder"):
        source(tmp_path / "llm", QWEN, Component.VISION)
    deeper = QWEN.model_copy(update={"language": QWEN.language.model_copy(update={"layers": 3})})
    with pytest.raises(
        UnsupportedModelError, match=r"language model in .*llm is not the model's: layers 2 instead of 3"
    ):
        source(tmp_path / "llm", deeper, Component.LANGUAGE)


def test_a_whole_model_s_vocabulary_is_not_changed_behind_one_s_back(tmp_path: Path) -> None:
    write(tmp_path / "hf", QWEN, Layout.NATIVE)
    with pytest.raises(UnsupportedModelError, match=r"vocab_size 67 instead of 60"):
        source(tmp_path / "hf", with_vocabulary(QWEN, 60), Component.LANGUAGE)


def test_a_base_that_says_it_has_a_head_must_have_one(tmp_path: Path) -> None:
    bare(tmp_path / "llm", QWEN, Component.LANGUAGE, tie_word_embeddings=True)
    config = json.loads((tmp_path / "llm" / "config.json").read_text())
    (tmp_path / "llm" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(MissingTensorError, match=r"lacks lm_head\.weight"):
        source(tmp_path / "llm", QWEN, Component.LANGUAGE)


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([torch.float32, torch.bfloat16]))
def test_an_embedding_of_any_size_fits(base: int, wanted: int, dtype: torch.dtype) -> None:
    base_VH = values((base, 4), 1, dtype)
    fitted = fit_embedding(base_VH, wanted, lambda: torch.full((wanted, 4), 7.0))
    assert (fitted.shape, fitted.dtype) == ((wanted, 4), dtype)
    kept = min(base, wanted)
    assert torch.equal(fitted[:kept], base_VH[:kept])
    assert (fitted[kept:] == 7.0).all()


@given(st.integers(1, 30), st.integers(10, 30), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_head_knows_all_tokens_that_its_base_must_know(base: int, wanted: int, dtype: torch.dtype) -> None:
    base_VH = values((base, 4), 1, dtype)
    if base < wanted - 9:
        with pytest.raises(UnsupportedModelError, match=f"has {base} tokens; .* needs at least {wanted - 9}"):
            fit_head(base_VH, wanted)
        return
    fitted = fit_head(base_VH, wanted)
    assert (fitted.shape, fitted.dtype) == ((wanted, 4), dtype)
    known = wanted if base == wanted else wanted - 9
    assert torch.equal(fitted[:known], base_VH[:known])
