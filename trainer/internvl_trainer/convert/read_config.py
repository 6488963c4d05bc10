"""From a Hugging Face config.json to our geometry: everything that we would compute otherwise is refused.

Covers whole models in both layouts, and bare InternViT, Qwen2.5, InternLM2.5 and Llama folders. Fields that are only
of use to a data pipeline or to generation are left alone.
"""

from collections.abc import Mapping as Fields
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.convert.errors import UnsupportedModelError
from internvl_trainer.convert.mapping import Layout


class Description(NamedTuple):
    """What a folder holds. A whole model has both geometries, a bare part its own."""

    layout: Layout
    components: tuple[Component, ...]
    vision: VisionGeometry | None
    language: LanguageGeometry | None
    downsample_ratio: float = 0.5
    stored_image_size: int | None = None
    """Side of the tiles that the stored positions are for, where it may differ from `vision.image_size`."""
    ties_embeddings: bool = False
    """The folder has no head: it is a copy of the embedding. In bare language models only."""

    def model(self, name: str) -> ModelGeometry:
        """The geometry of a whole model: the catalogue's own entry where there is an equal one, else named `name`."""
        if self.vision is None or self.language is None:
            raise UnsupportedModelError(
                f"{name} holds a bare {self.components[0]} part; combine it with folders of the other parts"
            )
        found = ModelGeometry(
            name=name, vision=self.vision, language=self.language, downsample_ratio=self.downsample_ratio
        )
        known = (entry for entry in catalog.MODELS.values() if entry.model_copy(update={"name": name}) == found)
        return next(known, found)


class _Demand(NamedTuple):
    """A field that must have one value, which is also what its absence means."""

    field: str
    value: Any
    remedy: str


_WHOLE_NATIVE = (
    _Demand("select_layer", -1, "features are taken from the last layer of the vision encoder"),
    _Demand("ps_version", "v2", "only the v2 order of pixel unshuffle is computed"),
    _Demand("use_backbone_lora", 0, "merge the adapters into the weights and save the model again"),
    _Demand("use_llm_lora", 0, "merge the adapters into the weights and save the model again"),
    _Demand("tie_word_embeddings", False, "save the model with a head of its own"),
)
_WHOLE_TRANSFORMERS = (
    _Demand("vision_feature_layer", -1, "features are taken from the last layer of the vision encoder"),
    _Demand("vision_feature_select_strategy", "default", "the class token's feature is always dropped"),
    _Demand("projector_hidden_act", "gelu", "the projector's activation is the exact GELU"),
)
_VISION_NATIVE = (
    _Demand("hidden_act", "gelu", "the vision encoder's activation is the exact GELU"),
    _Demand("num_channels", 3, "tiles are RGB"),
    _Demand("attention_dropout", 0.0, "the vision encoder has no dropout"),
    _Demand("dropout", 0.0, "the vision encoder has no dropout"),
)
_VISION_TRANSFORMERS = (
    _Demand("hidden_act", "gelu", "the vision encoder's activation is the exact GELU"),
    _Demand("num_channels", 3, "tiles are RGB"),
    _Demand("attention_dropout", 0.0, "the vision encoder has no dropout"),
    _Demand("hidden_dropout_prob", 0.0, "the vision encoder has no dropout"),
    _Demand("projection_dropout", 0.0, "the vision encoder has no dropout"),
    _Demand("use_mask_token", False, "there is no mask token; drop it and save the model again"),
    _Demand("use_absolute_position_embeddings", True, "positions are learned"),
    _Demand("use_mean_pooling", True, "there is no norm after the last layer"),
)
_LANGUAGE = (
    _Demand("hidden_act", "silu", "the language model's activation is SwiGLU"),
    _Demand("use_sliding_window", False, "attention sees the whole segment"),
    _Demand("bias", False, "only q, k and v may have a bias"),
    _Demand("attention_bias", False, "only Qwen2.5's q, k and v have a bias, and its configuration has no such field"),
    _Demand("mlp_bias", False, "only q, k and v may have a bias"),
)
_IN_A_WHOLE_MODEL = _Demand("tie_word_embeddings", False, "save the model with a head of its own")
_FAMILIES: dict[str, tuple[Literal["qwen2.5", "internlm2.5"], Layout]] = {
    "qwen2": ("qwen2.5", Layout.NATIVE),
    "internlm2": ("internlm2.5", Layout.NATIVE),
    "llama": ("internlm2.5", Layout.TRANSFORMERS),
}
_LANGUAGES_OF = {Layout.NATIVE: ("qwen2", "internlm2"), Layout.TRANSFORMERS: ("qwen2", "llama")}


def describe(config: Fields[str, Any]) -> Description:
    """What the folder with this config.json holds.

    Raises:
        UnsupportedModelError: names the field, its value, and what could be done.
    """
    try:
        return _describe(config)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UnsupportedModelError(f"config.json gives no geometry: {faults}") from error


def _describe(config: Fields[str, Any]) -> Description:
    kind = _need(config, "model_type", "config.json")
    if kind == "internvl_chat":
        return _native(config)
    if kind == "internvl":
        return _transformers(config)
    if kind in ("intern_vit_6b", "internvl_vision"):
        layout = Layout.NATIVE if kind == "intern_vit_6b" else Layout.TRANSFORMERS
        vision = _vision(config, layout, "config.json")
        return Description(layout, (Component.VISION,), vision, None, stored_image_size=vision.image_size)
    if kind in _FAMILIES:
        language, tied = _language(config, "config.json"), bool(config.get("tie_word_embeddings", False))
        return Description(_FAMILIES[kind][1], (Component.LANGUAGE,), None, language, ties_embeddings=tied)
    raise UnsupportedModelError(
        f"config.json: model_type is {kind!r}; internvl_chat, internvl, intern_vit_6b, internvl_vision, "
        f"{', '.join(_FAMILIES)} can be read"
    )


def _native(config: Fields[str, Any]) -> Description:
    _demand(config, _WHOLE_NATIVE, "config.json")
    vision = _vision(_section(config, "vision_config"), Layout.NATIVE, "vision_config")
    stored = vision.image_size
    if size := config.get("force_image_size"):
        vision = vision.model_copy(update={"image_size": size})
    language = _part_of_a_whole(config, "llm_config", Layout.NATIVE)
    ratio = config.get("downsample_ratio", 0.5)
    return Description(Layout.NATIVE, tuple(Component), vision, language, ratio, stored)


def _transformers(config: Fields[str, Any]) -> Description:
    # Unsaid means tied to the class itself; but a folder without a head is found out by its missing tensor.
    _demand(config, (*_WHOLE_TRANSFORMERS, _IN_A_WHOLE_MODEL), "config.json")
    vision = _vision(_section(config, "vision_config"), Layout.TRANSFORMERS, "vision_config")
    language = _part_of_a_whole(config, "text_config", Layout.TRANSFORMERS)
    ratio = config.get("downsample_ratio", 0.5)
    return Description(Layout.TRANSFORMERS, tuple(Component), vision, language, ratio, vision.image_size)


def _part_of_a_whole(config: Fields[str, Any], field: str, layout: Layout) -> LanguageGeometry:
    language = _section(config, field)
    _demand(language, (_IN_A_WHOLE_MODEL,), field)
    kind = _language_type(language, field)
    if kind not in _LANGUAGES_OF[layout]:
        raise UnsupportedModelError(
            f"{field}: model_type is {kind!r}; language models in the {layout} layout can be "
            f"{' or '.join(_LANGUAGES_OF[layout])}"
        )
    return _language(language, field)


def _vision(config: Fields[str, Any], layout: Layout, where: str) -> VisionGeometry:
    native = layout is Layout.NATIVE
    _demand(config, _VISION_NATIVE if native else _VISION_TRANSFORMERS, where)
    norms = {"layer_norm": "layernorm", "rms_norm": "rmsnorm"}
    norm = _need(config, "norm_type", where)
    if norm not in norms:
        raise UnsupportedModelError(f"{where}: norm_type is {norm!r}; {' or '.join(norms)} can be read")
    return VisionGeometry(
        layers=_need(config, "num_hidden_layers", where),
        hidden=_need(config, "hidden_size", where),
        heads=_need(config, "num_attention_heads", where),
        ffn=_need(config, "intermediate_size", where),
        image_size=_side(config, "image_size", where),
        patch_size=_side(config, "patch_size", where),
        norm=norms[norm],
        norm_eps=_need(config, "layer_norm_eps", where),
        qkv_bias=_need(config, "qkv_bias" if native else "attention_bias", where),
        qk_norm=_need(config, "qk_normalization" if native else "use_qk_norm", where),
    )


def _language(config: Fields[str, Any], where: str) -> LanguageGeometry:
    _demand(config, _LANGUAGE, where)
    kind = _language_type(config, where)
    hidden, heads = _count(config, "hidden_size", where), _count(config, "num_attention_heads", where)
    return LanguageGeometry(
        family=_FAMILIES[kind][0],
        layers=_need(config, "num_hidden_layers", where),
        hidden=hidden,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        ffn=_need(config, "intermediate_size", where),
        vocab_size=_need(config, "vocab_size", where),
        rope_theta=_rope_theta(config, where),
        norm_eps=_need(config, "rms_norm_eps", where),
        qkv_bias=kind == "qwen2",
        max_positions=_need(config, "max_position_embeddings", where),
    )


def _language_type(config: Fields[str, Any], where: str) -> str:
    kind = _need(config, "model_type", where)
    if kind not in _FAMILIES:
        raise UnsupportedModelError(f"{where}: model_type is {kind!r}; {', '.join(_FAMILIES)} can be read")
    return str(kind)


def _rope_theta(config: Fields[str, Any], where: str) -> float:
    """Base of the rotation, in the form of transformers 4 or 5. Dynamic scaling acts beyond the positions we have."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ("default", "dynamic"):
        raise UnsupportedModelError(
            f"{where}: RoPE scaling is {scaling!r}; only none, and dynamic, which changes nothing up to "
            "max_position_embeddings, can be read"
        )
    theta: float = scaling["rope_theta"] if "rope_theta" in scaling else _need(config, "rope_theta", where)
    return theta


def _count(config: Fields[str, Any], field: str, where: str) -> int:
    value = _need(config, field, where)
    if not isinstance(value, int) or value < 1:
        raise UnsupportedModelError(f"{where}: {field} is {value!r}, a positive number was expected")
    return value


def _side(config: Fields[str, Any], field: str, where: str) -> int:
    value = _need(config, field, where)
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise UnsupportedModelError(f"{where}: {field} is {value!r}; tiles and patches are square")
    side: int = sides.pop()
    return side


def _demand(config: Fields[str, Any], demands: tuple[_Demand, ...], where: str) -> None:
    for field, value, remedy in demands:
        found = config.get(field, value)
        if found != value:
            raise UnsupportedModelError(f"{where}: {field} is {found!r}, only {value!r} can be read; {remedy}")


def _section(config: Fields[str, Any], field: str) -> Fields[str, Any]:
    section = _need(config, field, "config.json")
    if not isinstance(section, Fields):
        raise UnsupportedModelError(f"config.json: {field} is {section!r}, a section of fields was expected")
    return section


def _need(config: Fields[str, Any], field: str, where: str) -> Any:
    if field not in config:
        raise UnsupportedModelError(f"{where} has no field {field}; the model cannot be told without it")
    return config[field]
