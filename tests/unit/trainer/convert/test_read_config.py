"""A config.json becomes our geometry, or an error that names the field, its value and a way out."""

import json
from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.convert.errors import UnsupportedModelError
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.convert.read_config import describe
from internvl_trainer.convert.write_config import documents, image_token_of

pytestmark = pytest.mark.unit

RELEASED = [name for name in catalog.MODELS if name.startswith("InternVL2_5")]
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[3] / "golden" / "state_dict_keys.json").read_text())[
    "models"
]


def native(**changes: Any) -> dict[str, Any]:
    """The 8B's chat configuration; `section__field` changes a nested one."""
    config = documents(catalog.get("InternVL2_5-8B"), Layout.NATIVE)["config.json"]
    return changed(config, changes)


def transformers(**changes: Any) -> dict[str, Any]:
    """The 1B's, in the transformers layout."""
    return changed(documents(catalog.get("InternVL2_5-1B"), Layout.TRANSFORMERS)["config.json"], changes)


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for path, value in changes.items():
        section, _, field = path.rpartition("__")
        (config[section] if section else config)[field] = value
    return config


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("name", RELEASED)
def test_what_we_write_of_a_released_model_we_read_as_the_catalogue_has_it(name: str, layout: Layout) -> None:
    found = describe(json.loads(json.dumps(documents(catalog.get(name), layout)["config.json"])))
    assert (found.layout, found.components) == (layout, tuple(Component))
    assert found.model("any") == catalog.get(name)


@pytest.mark.parametrize("size", list(GOLDEN))
def test_the_published_configurations_are_read_as_the_catalogue_has_them(size: str) -> None:
    config = {
        "model_type": "internvl_chat",
        "select_layer": -1,
        "ps_version": "v2",
        "downsample_ratio": 0.5,
        "force_image_size": 448,
        "vision_config": GOLDEN[size]["vision_config"],
        "llm_config": GOLDEN[size]["llm_config"],
    }
    assert describe(config).model("any") == catalog.get(f"InternVL2_5-{size}")


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("name", ["InternVL2_5-1B", "InternVL2_5-26B"])
def test_bare_parts_are_read_alone(name: str, layout: Layout) -> None:
    model = catalog.get(name)
    vision = describe(documents(model, layout, component=Component.VISION)["config.json"])
    language = describe(documents(model, layout, component=Component.LANGUAGE)["config.json"])
    assert (vision.components, vision.vision, vision.language) == ((Component.VISION,), model.vision, None)
    assert (language.components, language.vision, language.language) == ((Component.LANGUAGE,), None, model.language)
    with pytest.raises(UnsupportedModelError, match="a bare vision part; combine it"):
        vision.model("any")


def test_a_tied_base_says_so() -> None:
    config = documents(catalog.get("InternVL2_5-1B"), Layout.NATIVE, component=Component.LANGUAGE)["config.json"]
    assert describe(config | {"tie_word_embeddings": True}).ties_embeddings
    assert not describe(config).ties_embeddings


def test_rope_is_read_in_the_form_of_transformers_4_and_5() -> None:
    old = transformers(text_config__rope_parameters=None, text_config__rope_theta=5e5)
    new = transformers(text_config__rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    del new["text_config"]["rope_theta"]
    for config in (old, new):
        language = describe(config).language
        assert language is not None
        assert language.rope_theta == 5e5


def test_tiles_may_be_larger_than_the_stored_positions() -> None:
    found = describe(native(force_image_size=448, vision_config__image_size=224))
    assert found.vision is not None
    assert (found.vision.image_size, found.stored_image_size) == (448, 224)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (native(select_layer=-4), r"select_layer is -4, only -1 can be read; features are taken from the last layer"),
        (native(ps_version="v1"), r"ps_version is 'v1', only 'v2'"),
        (native(use_backbone_lora=16), r"use_backbone_lora is 16, .*merge the adapters"),
        (native(use_llm_lora=16), r"use_llm_lora is 16, .*merge the adapters"),
        (native(tie_word_embeddings=True), r"tie_word_embeddings is True, .*head of its own"),
        (native(llm_config__tie_word_embeddings=True), r"llm_config: tie_word_embeddings is True"),
        (native(llm_config__bias=True), r"llm_config: bias is True"),
        (native(llm_config__model_type="phi3"), r"llm_config: model_type is 'phi3'; qwen2, internlm2, llama"),
        (native(llm_config__model_type="llama"), r"in the native layout can be qwen2 or internlm2"),
        (native(llm_config__rope_scaling={"type": "yarn", "factor": 4.0}), r"llm_config: RoPE scaling is .*yarn"),
        (native(vision_config__norm_type="batch_norm"), r"vision_config: norm_type is 'batch_norm'; layer_norm or"),
        (native(vision_config__hidden_act="quick_gelu"), r"hidden_act is 'quick_gelu'"),
        (native(vision_config__dropout=0.1), r"vision_config: dropout is 0.1"),
        (transformers(vision_feature_layer=-2), r"vision_feature_layer is -2"),
        (transformers(vision_feature_select_strategy="full"), r"vision_feature_select_strategy is 'full'"),
        (transformers(tie_word_embeddings=True), r"tie_word_embeddings is True"),
        (transformers(vision_config__use_mean_pooling=False), r"use_mean_pooling is False, .*no norm after"),
        (transformers(vision_config__image_size=[448, 224]), r"image_size is \[448, 224\]; .* are square"),
        (transformers(text_config__use_sliding_window=True), r"use_sliding_window is True"),
        ({"model_type": "llava"}, r"model_type is 'llava'; internvl_chat, internvl"),
        ({}, r"config.json has no field model_type"),
        ({"model_type": "internvl_chat"}, r"config.json has no field vision_config"),
        (native(llm_config__num_attention_heads=0), r"llm_config: num_attention_heads is 0, a positive"),
        (native(vision_config=7), r"vision_config is 7, a section"),
        (native(llm_config__num_hidden_layers="many"), r"gives no geometry: layers: Input should be a valid integer"),
    ],
)  # fmt: skip
def test_what_cannot_be_represented_is_refused_by_name(config: dict[str, Any], error: str) -> None:
    with pytest.raises(UnsupportedModelError, match=error):
        describe(config)


def test_the_factor_of_dynamic_rope_is_that_of_the_base() -> None:
    factors = {
        name: documents(catalog.get(name), Layout.NATIVE)["config.json"]["llm_config"].get("rope_scaling")
        for name in RELEASED
    }
    dynamic = {"type": "dynamic", "factor": 2.0}
    assert factors == dict.fromkeys(RELEASED) | {
        "InternVL2_5-2B": dynamic, "InternVL2_5-8B": dynamic, "InternVL2_5-26B": dynamic | {"factor": 2.5},
    }  # fmt: skip


def test_placeholders_are_known_for_released_vocabularies_alone() -> None:
    assert image_token_of(catalog.get("InternVL2_5-78B")) == 151667
    assert image_token_of(catalog.get("InternVL2_5-8B")) == 92546
    with pytest.raises(UnsupportedModelError, match=r"has 2048 tokens, .* by --image-token which id <IMG_CONTEXT> has"):
        image_token_of(catalog.get("tiny-1b-like"))


def test_a_model_that_no_layout_can_say_is_refused() -> None:
    model = catalog.get("InternVL2_5-1B")
    wide = model.model_copy(update={"language": model.language.model_copy(update={"head_dim": 128})})
    with pytest.raises(UnsupportedModelError, match="14 heads of 128 are not the hidden width 896"):
        documents(wide, Layout.NATIVE)
    with pytest.raises(UnsupportedModelError, match="projector_norm_eps is 1e-06"):
        documents(model.model_copy(update={"projector_norm_eps": 1e-6}), Layout.TRANSFORMERS)
    with pytest.raises(UnsupportedModelError, match="no Hugging Face class holds a projector alone"):
        documents(model, Layout.NATIVE, component=Component.PROJECTOR)


def test_a_vision_encoder_that_stands_alone_says_whose_code_reads_it_and_one_inside_a_model_does_not() -> None:
    model = catalog.get("InternVL2_5-26B")
    alone = documents(model, Layout.NATIVE, component=Component.VISION)["config.json"]
    whole = documents(model, Layout.NATIVE)["config.json"]

    assert alone["auto_map"]["AutoModel"].endswith("--modeling_intern_vit.InternVisionModel")
    assert alone["auto_map"]["AutoConfig"].endswith("--configuration_intern_vit.InternVisionConfig")
    assert whole["auto_map"]["AutoModel"].endswith("--modeling_internvl_chat.InternVLChatModel")
    assert "auto_map" not in whole["vision_config"]
