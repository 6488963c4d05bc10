"""Which tensor of one layout is which of the other, said once more and by hand, and compared element by element."""

import pytest
import torch

from internvl_trainer.convert.folder import HuggingFaceFolder
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.storage import open_store
from tests.unit.trainer.convert.models import INTERNLM, LARGE_VIT, MODELS, PLAIN_VIT, QWEN, write

pytestmark = pytest.mark.unit

VISION = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
    "encoder.layers.1.ls1": "encoder.layer.1.lambda_1",
    "encoder.layers.1.ls2": "encoder.layer.1.lambda_2",
    "encoder.layers.1.norm1.weight": "encoder.layer.1.layernorm_before.weight",
    "encoder.layers.1.norm2.weight": "encoder.layer.1.layernorm_after.weight",
    "encoder.layers.1.attn.proj.weight": "encoder.layer.1.attention.projection_layer.weight",
    "encoder.layers.1.attn.proj.bias": "encoder.layer.1.attention.projection_layer.bias",
    "encoder.layers.1.mlp.fc1.weight": "encoder.layer.1.mlp.fc1.weight",
    "encoder.layers.1.mlp.fc1.bias": "encoder.layer.1.mlp.fc1.bias",
    "encoder.layers.1.mlp.fc2.weight": "encoder.layer.1.mlp.fc2.weight",
    "encoder.layers.1.mlp.fc2.bias": "encoder.layer.1.mlp.fc2.bias",
}
PLAIN_ONLY = {
    "encoder.layers.1.norm1.bias": "encoder.layer.1.layernorm_before.bias",
    "encoder.layers.1.norm2.bias": "encoder.layer.1.layernorm_after.bias",
}
LARGE_ONLY = {
    "encoder.layers.1.attn.q_norm.weight": "encoder.layer.1.attention.q_norm.weight",
    "encoder.layers.1.attn.k_norm.weight": "encoder.layer.1.attention.k_norm.weight",
}
PROJECTOR = {
    f"mlp1.{native}.{kind}": f"multi_modal_projector.{ours}.{kind}"
    for native, ours in (("0", "layer_norm"), ("1", "linear_1"), ("3", "linear_2"))
    for kind in ("weight", "bias")
}
INTERNLM_AS_LLAMA = {
    "model.tok_embeddings.weight": "model.embed_tokens.weight",
    "model.layers.1.attention.wo.weight": "model.layers.1.self_attn.o_proj.weight",
    "model.layers.1.feed_forward.w1.weight": "model.layers.1.mlp.gate_proj.weight",
    "model.layers.1.feed_forward.w3.weight": "model.layers.1.mlp.up_proj.weight",
    "model.layers.1.feed_forward.w2.weight": "model.layers.1.mlp.down_proj.weight",
    "model.layers.1.attention_norm.weight": "model.layers.1.input_layernorm.weight",
    "model.layers.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    "model.norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

type Both = tuple[HuggingFaceFolder, HuggingFaceFolder]


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.name)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """One model in both layouts."""
    root = tmp_path_factory.mktemp("both")
    for layout in Layout:
        write(root / layout, request.param, layout)
    native, transformers = (HuggingFaceFolder(str(root / layout), open_store()) for layout in Layout)
    return native, transformers


def test_tensors_that_only_change_their_name(both: Both) -> None:
    native, transformers = both
    vision = VISION | (PLAIN_ONLY if native.description.vision == PLAIN_VIT else LARGE_ONLY)
    pairs = PROJECTOR | {f"vision_model.{a}": f"vision_tower.{b}" for a, b in vision.items()}
    if native.description.language == INTERNLM:
        pairs |= {f"language_model.{a}": f"language_model.{b}" for a, b in INTERNLM_AS_LLAMA.items()}
    else:
        pairs |= {name: name for name in native.tensors if name.startswith("language_model.")}
    for theirs, ours in pairs.items():
        assert torch.equal(native.read(theirs), transformers.read(ours)), (theirs, ours)


def test_a_vision_layer_s_fused_rows_are_all_q_then_all_k_then_all_v(both: Both) -> None:
    native, transformers = both
    for kind in ("weight", "bias") if native.description.vision == PLAIN_VIT else ("weight",):
        fused = native.read(f"vision_model.encoder.layers.1.attn.qkv.{kind}")
        for x, part in zip("qkv", fused.chunk(3), strict=True):
            assert torch.equal(transformers.read(f"vision_tower.encoder.layer.1.attention.{x}_proj.{kind}"), part)


def test_internlm_s_fused_rows_are_each_group_s_queries_key_and_value(both: Both) -> None:
    native, transformers = both
    if native.description.language != INTERNLM:
        assert native.description.language == QWEN
        assert "language_model.model.layers.1.self_attn.q_proj.bias" in native.tensors
        return
    size, per_group = INTERNLM.head_dim, INTERNLM.heads // INTERNLM.kv_heads
    heads = native.read("language_model.model.layers.1.attention.wqkv.weight").split(size)
    groups = [heads[start : start + per_group + 2] for start in range(0, len(heads), per_group + 2)]
    expected = {
        "q": [head for group in groups for head in group[:per_group]],
        "k": [group[per_group] for group in groups],
        "v": [group[per_group + 1] for group in groups],
    }
    for x, parts in expected.items():
        name = f"language_model.model.layers.1.self_attn.{x}_proj.weight"
        assert torch.equal(transformers.read(name), torch.cat(parts))


def test_the_large_encoder_has_what_the_plain_one_lacks(both: Both) -> None:
    native, _ = both
    large = native.description.vision == LARGE_VIT
    assert ("vision_model.encoder.layers.1.attn.q_norm.weight" in native.tensors) == large
    assert ("vision_model.encoder.layers.1.attn.qkv.bias" in native.tensors) != large
