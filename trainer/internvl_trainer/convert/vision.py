"""InternViT: how its tensors are called and arranged in each layout."""

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import VisionGeometry
from internvl_trainer.contract.tensors import prefix_of
from internvl_trainer.convert.mapping import Row, Stack, Table
from internvl_trainer.convert.transforms import GroupedQKV, LeadingOnes, QKVPerHead, Same

Q_K_V = ("q", "k", "v")


def table(vision: VisionGeometry) -> Table:
    """All tensors of a vision encoder of this geometry."""
    hidden, patch = vision.hidden, vision.patch_size
    positions = 1 + vision.patches_per_side**2
    rows = (
        Row(
            "class_token",
            (hidden,),
            LeadingOnes("embeddings.class_embedding", axes=2),
            LeadingOnes("embeddings.cls_token", axes=2),
        ),
        Row(
            "position",
            (positions, hidden),
            LeadingOnes("embeddings.position_embedding", axes=1),
            LeadingOnes("embeddings.position_embeddings", axes=1),
        ),
        Row(
            "patch_weight",
            (hidden, 3, patch, patch),
            Same("embeddings.patch_embedding.weight"),
            Same("embeddings.patch_embeddings.projection.weight"),
        ),
        Row(
            "patch_bias",
            (hidden,),
            Same("embeddings.patch_embedding.bias"),
            Same("embeddings.patch_embeddings.projection.bias"),
        ),
    )
    stack = Stack(vision.layers, "encoder.layers.", "encoder.layers.{i}.", "encoder.layer.{i}.", _layer(vision))
    return Table(prefix_of(Component.VISION), "vision_model.", "vision_tower.", rows, stack)


def _layer(vision: VisionGeometry) -> tuple[Row, ...]:
    hidden, ffn = vision.hidden, vision.ffn
    rows = [
        Row("ls1", (hidden,), Same("ls1"), Same("lambda_1")),
        Row("ls2", (hidden,), Same("ls2"), Same("lambda_2")),
        _qkv(vision, "weight", (3 * hidden, hidden)),
        Row(
            "self_attention.linear_proj.weight",
            (hidden, hidden),
            Same("attn.proj.weight"),
            Same("attention.projection_layer.weight"),
        ),
        Row(
            "self_attention.linear_proj.bias",
            (hidden,),
            Same("attn.proj.bias"),
            Same("attention.projection_layer.bias"),
        ),
        _same("mlp.linear_fc1.weight", (ffn, hidden), "mlp.fc1.weight"),
        _same("mlp.linear_fc1.bias", (ffn,), "mlp.fc1.bias"),
        _same("mlp.linear_fc2.weight", (hidden, ffn), "mlp.fc2.weight"),
        _same("mlp.linear_fc2.bias", (hidden,), "mlp.fc2.bias"),
    ]
    if vision.qkv_bias:
        rows.append(_qkv(vision, "bias", (3 * hidden,)))
    if vision.qk_norm:
        rows += [
            Row(
                f"self_attention.{x}_layernorm.weight",
                (hidden,),
                Same(f"attn.{x}_norm.weight"),
                Same(f"attention.{x}_norm.weight"),
            )
            for x in ("q", "k")
        ]
    for kind in ("weight", "bias") if vision.norm == "layernorm" else ("weight",):
        rows += [
            Row(f"input_layernorm.{kind}", (hidden,), Same(f"norm1.{kind}"), Same(f"layernorm_before.{kind}")),
            Row(f"pre_mlp_layernorm.{kind}", (hidden,), Same(f"norm2.{kind}"), Same(f"layernorm_after.{kind}")),
        ]
    return tuple(rows)


def _qkv(vision: VisionGeometry, kind: str, shape: tuple[int, ...]) -> Row:
    q, k, v = (f"attention.{x}_proj.{kind}" for x in Q_K_V)
    return Row(
        f"self_attention.linear_qkv.{kind}",
        shape,
        QKVPerHead(f"attn.qkv.{kind}", vision.heads),
        # Every head has a key and a value of its own: as many groups as heads.
        GroupedQKV((q, k, v), groups=vision.heads, head_dim=vision.hidden // vision.heads),
    )


def _same(key: str, shape: tuple[int, ...], name: str) -> Row:
    return Row(key, shape, Same(name), Same(name))
