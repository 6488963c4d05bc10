"""The conversion's tables name exactly the tensors that the model's checkpoints hold."""

from typing import Any

import pytest

from internvl_trainer.contract.catalog import MODELS, ModelGeometry
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.convert import tables
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.engine.parallel import Place
from tests.integration.trainer.grid import on_grid

pytestmark = pytest.mark.integration

TINY = MODELS["tiny-1b-like"]
LARGE_VIT: dict[str, Any] = {"norm": "rmsnorm", "qkv_bias": False, "qk_norm": True}
INTERNLM: dict[str, Any] = {"family": "internlm2.5", "qkv_bias": False, "norm_eps": 1e-5}
ODD_VOCABULARY = 2003


def of_kind(vision: dict[str, Any], language: dict[str, Any]) -> ModelGeometry:
    """A tiny model with these differences, and a vocabulary that needs padding."""
    language |= {"vocab_size": ODD_VOCABULARY}
    return TINY.model_copy(
        update={
            "vision": TINY.vision.model_copy(update=vision),
            "language": TINY.language.model_copy(update=language),
        }
    )


@pytest.mark.parametrize("vision", [{}, LARGE_VIT], ids=["300m-style", "6b-style"])
@pytest.mark.parametrize("language", [{}, INTERNLM], ids=["qwen2.5", "internlm2.5"])
def test_keys_layers_and_shapes(vision: dict[str, Any], language: dict[str, Any]) -> None:
    model = of_kind(vision, language)
    (held,) = on_grid(ParallelLayout(), sharded_tensors, model)
    wanted = {
        (key, layer): shape for key, layer, shape in (each.tensor for each in tables.mappings(model, Layout.NATIVE))
    }
    assert held == {tensor: _padded(tensor[0], shape) for tensor, shape in wanted.items()}


def sharded_tensors(place: Place, model: ModelGeometry) -> dict[tuple[str, int | None], tuple[int, ...]]:
    """Key and layer -> shape of one layer, of everything that a checkpoint of this model holds."""
    from megatron.core.dist_checkpointing import ShardedTensor
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import apply_factories

    from internvl_trainer.model.config import model_configs
    from internvl_trainer.model.internvl import InternVLModel

    state = InternVLModel(model, model_configs(model, ParallelLayout())).sharded_model_state()
    apply_factories(state)
    held = {}
    for shard in nested_values(state):
        assert isinstance(shard, ShardedTensor), shard
        stacked = shard.prepend_axis_num
        held[shard.key, shard.global_offset[0] if stacked else None] = tuple(shard.global_shape[stacked:])
    return held


def _padded(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Embedding and head have rows at the end that pad the vocabulary; a reader of a checkpoint leaves them out."""
    if shape[0] != ODD_VOCABULARY:
        return shape
    assert key.endswith(("word_embeddings.weight", "output_layer.weight")), key
    return (2048, *shape[1:])
