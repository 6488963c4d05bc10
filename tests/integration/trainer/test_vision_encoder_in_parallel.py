"""However many ranks share a vision encoder, and whether they share its weights or its tiles, it is the same function.

The reference is the InternVL vision encoder of transformers, on random weights, in one process.
Shapes: S positions, N tiles, H hidden, P side in px.
"""

import functools
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from internvl_trainer.contract.catalog import MODELS, ModelGeometry, VisionGeometry
from internvl_trainer.contract.job import JobConfig, PartitionConfig, RecomputeConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine.protocol import StepResult
from tests.integration.trainer import vision_cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.vision_cases import Encoder, Name, Ran, Trained
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

TILES = 3
"""Divides by none of the grids; of four ranks one has no tile, of eight five."""
MODES = ("tensor", "tiles")
AGAIN = RecomputeConfig(vision="layers")
WHOLE = RecomputeConfig(vision="whole")


def geometry(heads: int, head_dim: int, style: str) -> VisionGeometry:
    """A small encoder of 28 px tiles in the style of InternViT-300M or InternViT-6B."""
    small = {"layers": 2, "hidden": heads * head_dim, "heads": heads, "ffn": 48, "image_size": 28, "patch_size": 7}
    six = {"norm": "rmsnorm", "qkv_bias": False, "qk_norm": True} if style == "6b" else {}
    return VisionGeometry(**small, **six)


GEOMETRIES = {
    "3-heads-6b": geometry(3, 8, "6b"),
    "5-heads-6b": geometry(5, 8, "6b"),
    "25-heads-6b": geometry(25, 4, "6b"),
    "3-heads-300m": geometry(3, 8, "300m"),
}
CASES = list(product(GEOMETRIES, MODES))


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(side: int) -> torch.Tensor:
    return numbers(TILES, 3, side, side, seed=1)


def upstream(vision: VisionGeometry, side: int) -> torch.Tensor:
    return numbers(1 + (side // vision.patch_size) ** 2, TILES, vision.hidden, seed=2)


class Reference:
    """An encoder of transformers: its weights under our names, what it gives for the tiles, and its gradients."""

    def __init__(self, vision: VisionGeometry, side: int) -> None:
        from transformers import InternVLVisionConfig, InternVLVisionModel

        config = InternVLVisionConfig(
            num_hidden_layers=vision.layers, hidden_size=vision.hidden, num_attention_heads=vision.heads,
            intermediate_size=vision.ffn, image_size=vision.image_size, patch_size=vision.patch_size,
            norm_type={"rmsnorm": "rms_norm", "layernorm": "layer_norm"}[vision.norm], layer_norm_eps=vision.norm_eps,
            attention_bias=vision.qkv_bias, use_qk_norm=vision.qk_norm, use_mean_pooling=True, hidden_act="gelu",
            attn_implementation="eager",
        )  # fmt: skip
        model = InternVLVisionModel(config).eval()
        with torch.no_grad():
            for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.2 * numbers(*parameter.shape, seed=100 + number))
        x_NSH = model(pixels(side)).last_hidden_state
        x_NSH.backward(upstream(vision, side).transpose(0, 1))
        parameters = dict(model.named_parameters())
        self.output_SNH = x_NSH.detach().transpose(0, 1)
        self.weights = _under_our_names(vision, {name: each.detach() for name, each in parameters.items()})
        self.gradients = _under_our_names(vision, {name: each.grad for name, each in parameters.items()})


def _under_our_names(vision: VisionGeometry, theirs: dict[str, torch.Tensor]) -> dict[Name, torch.Tensor]:
    embeddings = {
        "patch_weight": "patch_embeddings.projection.weight", "patch_bias": "patch_embeddings.projection.bias",
        "class_token": "cls_token", "position": "position_embeddings",
    }  # fmt: skip
    layered = {
        "ls1": "lambda_1", "ls2": "lambda_2", "input_layernorm": "layernorm_before",
        "pre_mlp_layernorm": "layernorm_after", "self_attention.linear_proj": "attention.projection_layer",
        "self_attention.q_layernorm": "attention.q_norm", "self_attention.k_layernorm": "attention.k_norm",
        "mlp.linear_fc1": "mlp.fc1", "mlp.linear_fc2": "mlp.fc2",
    }  # fmt: skip
    found: dict[Name, torch.Tensor] = {}
    for ours, name in embeddings.items():
        values = theirs[f"embeddings.{name}"]
        found[ours, None] = values.squeeze()
    for layer in range(vision.layers):
        prefix = f"encoder.layer.{layer}."
        for (ours, name), kind in product(layered.items(), ("", ".weight", ".bias")):
            if prefix + name + kind in theirs:
                found[f"encoder.layers.{ours}{kind}", layer] = theirs[prefix + name + kind]
        for kind in ("weight", "bias"):
            if f"{prefix}attention.q_proj.{kind}" in theirs:
                parts = [theirs[f"{prefix}attention.{x}_proj.{kind}"].unflatten(0, (vision.heads, -1)) for x in "qkv"]
                name = f"encoder.layers.self_attention.linear_qkv.{kind}"
                found[name, layer] = torch.stack(parts, 1).flatten(0, 2)  # q, k and v of one head after the other
    assert len(theirs) == len(found) + (4 if vision.qkv_bias else 2) * vision.layers, "q, k and v are one tensor"
    return found


@functools.cache
def reference(name: str, side: int = 28) -> Reference:
    return Reference(GEOMETRIES[name], side)


def encoder(name: str, mode: str, *, side: int = 28, **options: Any) -> Encoder:
    return Encoder(
        GEOMETRIES[name],
        {key: values.numpy() for key, values in reference(name).weights.items()},
        pixels(side).numpy(),
        upstream(GEOMETRIES[name], side).numpy(),
        PartitionConfig(vision=mode),
        **options,
    )


@functools.cache
def on_ranks(tensor: int) -> list[dict[str, Ran]]:
    """All encoders in both modes at one tensor-parallel size, in one launch."""
    encoders = {f"{name}-{mode}": encoder(name, mode) for name, mode in CASES}
    for mode in MODES:
        encoders[f"larger tiles-{mode}"] = encoder("3-heads-6b", mode, side=42)
        encoders[f"drop path-{mode}"] = encoder("3-heads-300m", mode, drop_path=True)
        encoders[f"drop path again-{mode}"] = encoder("3-heads-300m", mode, drop_path=True, recompute=AGAIN)
    return on_grid(ParallelLayout(tensor=tensor), vision_cases.run, tensor, encoders)


def whole_gradients(ranks: list[Ran]) -> dict[Name, torch.Tensor]:
    """Gradients put together from what each rank would save; each element exactly once."""
    found: dict[Name, torch.Tensor] = {}
    for piece in (piece for rank in ranks for piece in rank.gradients):
        whole = found.setdefault(piece.name, torch.full(piece.whole, math.nan))
        part = whole[tuple(slice(at, at + size) for at, size in zip(piece.offset, piece.values.shape, strict=True))]
        assert part.isnan().all(), f"{piece.name} is saved twice in part"
        part.copy_(torch.from_numpy(piece.values))
    return found


def assert_same_gradients(ours: dict[Name, torch.Tensor], theirs: dict[Name, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = float(expected.abs().max())
        difference = float((ours[name] - expected).abs().max())
        assert difference <= 1e-5 * scale, f"{name}: {difference} of {scale}"


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
@pytest.mark.parametrize(("name", "mode"), CASES, ids=[f"{name}-{mode}" for name, mode in CASES])
def test_it_computes_what_transformers_computes(name: str, mode: str, tensor: int) -> None:
    for rank in on_ranks(tensor):
        ours_SNH = torch.from_numpy(rank[f"{name}-{mode}"].output_SNH)
        torch.testing.assert_close(ours_SNH, reference(name).output_SNH, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
@pytest.mark.parametrize(("name", "mode"), CASES, ids=[f"{name}-{mode}" for name, mode in CASES])
def test_every_parameter_has_the_gradient_that_it_has_in_transformers(name: str, mode: str, tensor: int) -> None:
    ranks = [rank[f"{name}-{mode}"] for rank in on_ranks(tensor)]
    assert_same_gradients(whole_gradients(ranks), reference(name).gradients)
    padded = mode == "tensor" and GEOMETRIES[name].heads % tensor != 0
    assert {rank.padding for rank in ranks} <= {None, 0.0}
    assert any(rank.padding is not None for rank in ranks) == padded


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", MODES)
def test_tiles_of_another_size_get_resized_positions_which_learn_through_it(mode: str, tensor: int) -> None:
    ranks = [rank[f"larger tiles-{mode}"] for rank in on_ranks(tensor)]
    expected = reference("3-heads-6b", 42)
    torch.testing.assert_close(torch.from_numpy(ranks[0].output_SNH), expected.output_SNH, atol=2e-5, rtol=1e-5)
    assert_same_gradients(whole_gradients(ranks), expected.gradients)


@pytest.mark.parametrize("tensor", [2, 4, 8])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["drop path", "drop path again"])
def test_drop_path_drops_the_same_branches_of_the_same_tiles_on_any_grid(way: str, mode: str, tensor: int) -> None:
    (alone,) = on_ranks(1)
    expected = alone["drop path-tensor"]
    kept = np.abs(expected.output_SNH - reference("3-heads-300m").output_SNH.numpy()).max(axis=(0, 2))
    assert kept.max() > 0.01, "some tile has lost a branch"
    ranks = [rank[f"{way}-{mode}"] for rank in on_ranks(tensor)]
    for rank in ranks:
        np.testing.assert_allclose(rank.output_SNH, expected.output_SNH, atol=2e-5, rtol=1e-5)
    assert_same_gradients(whole_gradients(ranks), whole_gradients([expected]))


def whole_model(heads: int, head_dim: int) -> ModelGeometry:
    """A tiny model that eight ranks can share, with a vision encoder of so many heads."""
    tiny = MODELS["tiny-1b-like"]
    vision = {"heads": heads, "hidden": heads * head_dim, "layers": 2, "norm": "rmsnorm", "qk_norm": True}
    language = {"heads": 8, "head_dim": 16, "vocab_size": 300}
    return tiny.model_copy(
        update={"vision": tiny.vision.model_copy(update=vision), "language": tiny.language.model_copy(update=language)}
    )


THREE_HEADS = whole_model(3, 32)
TWENTY_FIVE_HEADS = whole_model(25, 4)
TRAINABLE = (("vision", "projector", "language"), ("vision",), ("projector",))
STEPS = 3
SINGLE = ParallelLayout()
GRIDS = [
    ParallelLayout(tensor=2), ParallelLayout(tensor=4), ParallelLayout(tensor=2, pipeline=2),
    ParallelLayout(tensor=2, data=2),
]  # fmt: skip


def training(folder: Path, layout: ParallelLayout, mode: str, **parts: Any) -> JobConfig:
    settings = {"global_batch": 4, "drop_path": 0.3, "steps": 9, "weight_decay": 0.1} | parts.pop("optimization", {})
    model = parts.pop("model", THREE_HEADS)
    return job(
        folder, folder, model=model.model_dump(), layout=layout.model_dump(),
        partition={"vision": mode, "sequence": parts.pop("sequence", False)}, optimization=settings, **parts,
    )  # fmt: skip


def trainings(folder: Path, layout: ParallelLayout, modes: tuple[str, ...] = MODES) -> list[JobConfig]:
    return [
        training(folder, layout, mode, trainable=parts, recompute=recompute.model_dump())
        for mode, parts, recompute in product(modes, TRAINABLE, (AGAIN, WHOLE))
    ]


@pytest.fixture(scope="module")
def in_one_process(tmp_path_factory: pytest.TempPathFactory) -> list[Trained]:
    """The jobs of `trainings`, in one process: one mode, as there both are the same."""
    jobs = trainings(tmp_path_factory.mktemp("single"), SINGLE, ("tensor",))
    (trained,) = on_grid(SINGLE, vision_cases.train, jobs, STEPS)
    return trained


@pytest.mark.parametrize("layout", GRIDS, ids=lambda grid: f"tp{grid.tensor}-pp{grid.pipeline}-dp{grid.data}")
def test_training_does_not_depend_on_what_the_ranks_share(
    layout: ParallelLayout, in_one_process: list[Trained], tmp_path: Path
) -> None:
    with_sequence_parallelism = [
        training(tmp_path, layout, mode, trainable=TRAINABLE[0], sequence=True) for mode in MODES
    ]
    expected = in_one_process * len(MODES) + in_one_process[:1] * len(MODES)
    ranks = on_grid(layout, vision_cases.train, trainings(tmp_path, layout) + with_sequence_parallelism, STEPS)
    for ours, theirs in ((ours, theirs) for rank in ranks for ours, theirs in zip(rank, expected, strict=True)):
        assert_same_steps(ours.steps, theirs.steps)
    paddings = {trained.padding for rank in ranks for trained in rank}
    assert paddings == {None, 0.0}, "weight decay and Adam leave heads of zeros what they are"


def assert_same_steps(ours: list[StepResult], theirs: list[StepResult], relative: float = 1e-5) -> None:
    assert [each.loss for each in ours] == pytest.approx([each.loss for each in theirs], rel=relative)
    assert [each.grad_norm for each in ours] == pytest.approx([each.grad_norm for each in theirs], rel=10 * relative)


WRITERS = [(1, "tensor"), (4, "tensor"), (2, "tiles")]
READERS = [(1, "tensor"), (2, "tensor"), (4, "tensor"), (4, "tiles")]
PRECISIONS = {"fp32": 1e-5, "bf16": 1e-2}


def saved_in(store: Path, layout: ParallelLayout, mode: str) -> list[JobConfig]:
    """Jobs that write into one folder per precision, and resume from what is there."""
    return [
        training(store / precision, layout, mode, optimization={"precision": precision}) for precision in PRECISIONS
    ]


@pytest.fixture(scope="module", params=WRITERS, ids=lambda way: f"tp{way[0]}-{way[1]}")
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[list[StepResult]]]:
    """Checkpoints written by ranks that shared one thing or the other, and how training went on."""
    store = tmp_path_factory.mktemp("store")
    tensor, mode = request.param
    layout = ParallelLayout(tensor=tensor)
    return store, on_grid(layout, vision_cases.train_and_save, saved_in(store, layout, mode), store / "scratch")[0]


@pytest.mark.parametrize(("tensor", "mode"), READERS, ids=[f"tp{tensor}-{mode}" for tensor, mode in READERS])
def test_training_goes_on_from_a_checkpoint_of_any_other_way_of_sharing(
    tensor: int, mode: str, written: tuple[Path, list[list[StepResult]]], tmp_path: Path
) -> None:
    store, went_on = written
    layout = ParallelLayout(tensor=tensor)
    for rank in on_grid(layout, vision_cases.resume_and_train, saved_in(store, layout, mode), tmp_path):
        for ours, theirs, tolerance in zip(rank, went_on, PRECISIONS.values(), strict=True):
            assert_same_steps(ours, theirs, tolerance)


@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8)])
def test_a_model_with_25_vision_heads_trains_on_eight_ranks_as_on_one(before: int, after: int, tmp_path: Path) -> None:
    writers, readers = ParallelLayout(tensor=before), ParallelLayout(tensor=after)
    scratch, model = tmp_path / "scratch", TWENTY_FIVE_HEADS
    written = training(tmp_path, writers, "tensor", model=model)
    ((went_on,), *_) = on_grid(writers, vision_cases.train_and_save, [written], scratch)
    read = training(tmp_path, readers, "tensor", model=model)
    for (resumed,) in on_grid(readers, vision_cases.resume_and_train, [read], scratch):
        assert_same_steps(resumed, went_on)
