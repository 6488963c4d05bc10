"""Our InternViT, projector and language model compute what the reference computes."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from internvl_trainer.contract.catalog import VisionGeometry
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from tests.integration.trainer import golden, golden_cases
from tests.integration.trainer.golden_cases import Forward
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

VISION = golden.load("tiny_intern_vit.json")["cases"]
WHOLE = golden.load("tiny_internvl_forward.json")["cases"]
ABSOLUTE, RELATIVE = 2e-5, 1e-5


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("case", VISION, ids=lambda case: case["kind"])
def test_vision_encoder(case: dict[str, Any], tensor: int) -> None:
    geometry = golden.vision_geometry(case["config"])
    for output in on_grid(ParallelLayout(tensor=tensor), golden_cases.run_vision, geometry, tensor):
        x_NSH = torch.tensor(output)
        assert x_NSH[0, 0].tolist() == pytest.approx(case["last_tok0"], abs=ABSOLUTE)
        assert x_NSH[0, 1].tolist() == pytest.approx(case["last_tok1"], abs=ABSOLUTE)
        assert x_NSH[1, 16].tolist() == pytest.approx(case["last_tok16_img1"], abs=ABSOLUTE)
        assert float(x_NSH.abs().sum()) == pytest.approx(case["abs_sum"], rel=RELATIVE)


@pytest.mark.parametrize("case", VISION, ids=lambda case: case["kind"])
def test_vision_encoder_on_tiles_of_another_size(case: dict[str, Any]) -> None:
    geometry, expected = golden.vision_geometry(case["config"]), case["interp_42px"]
    (output,) = on_grid(ParallelLayout(), golden_cases.run_vision, geometry, 1, tiles=1, side=42)
    x_NSH = torch.tensor(output)
    assert x_NSH.size(1) == expected["tokens"]
    assert x_NSH[0, 1].tolist() == pytest.approx(expected["tok1"], abs=ABSOLUTE)
    assert float(x_NSH.abs().sum()) == pytest.approx(expected["abs_sum"], rel=RELATIVE)


@pytest.mark.parametrize("tensor", [1, 2])
def test_vision_encoder_in_the_6b_style_normalises_q_and_k_over_all_heads(tensor: int) -> None:
    config = VISION[0]["config"] | {"norm_type": "rms_norm", "qkv_bias": False, "qk_normalization": True}
    geometry = golden.vision_geometry(config)
    expected_NSH = _plain_6b_style(geometry)
    for output in on_grid(ParallelLayout(tensor=tensor), golden_cases.run_vision, geometry, tensor):
        torch.testing.assert_close(torch.tensor(output), expected_NSH, atol=ABSOLUTE, rtol=0)


class Compared(NamedTuple):
    """A golden case, and what our model made of it."""

    case: dict[str, Any]
    forward: Forward


@pytest.fixture(
    scope="module",
    params=[(case, tensor) for case in WHOLE for tensor in (1, 2)],
    ids=lambda param: f"{param[0]['kind']}-tp{param[1]}",
)
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    case, tensor = request.param
    layout = ParallelLayout(tensor=tensor)
    config = _job(case, layout, tmp_path_factory.mktemp("golden"))
    results = on_grid(layout, golden_cases.run_model, config, case)
    assert all(result.losses_K == results[0].losses_K for result in results)
    return Compared(case, results[0])


def test_visual_tokens(compared: Compared) -> None:
    case, forward = compared
    assert forward.visual_TH[0] == pytest.approx(case["projected_feature_tok0"], abs=ABSOLUTE)
    assert forward.visual_TH[4 + 3] == pytest.approx(case["projected_feature_tok3_img1"], abs=ABSOLUTE)


def test_losses_of_packed_samples_are_those_of_the_samples_alone(compared: Compared) -> None:
    expected = compared.case["per_token_loss_A"] + compared.case["per_token_loss_B"]
    assert compared.forward.losses_K == pytest.approx(expected, rel=RELATIVE)


def test_logits_leave_out_the_columns_that_pad_the_vocabulary(compared: Compared) -> None:
    names = ("logits_A_last", "logits_A_pos13", "logits_B_last")
    for ours, name in zip(compared.forward.logits, names, strict=True):
        assert ours == pytest.approx(compared.case[name], abs=ABSOLUTE)


def test_pack_losses_for_the_three_weightings(compared: Compared) -> None:
    assert compared.forward.packed == pytest.approx(compared.case["packed_loss"], rel=RELATIVE)


def test_gradient_of_every_parameter(compared: Compared) -> None:
    expected = compared.case["grad_norms_packed_square"]
    total = sum(norm**2 for norm in expected.values()) ** 0.5
    assert compared.forward.grad_norm == pytest.approx(total, rel=2e-5)
    if compared.forward.gradient_norms:  # a single rank holds them whole
        assert compared.forward.gradient_norms == pytest.approx(expected, rel=2e-4, abs=1e-8)


def _job(case: dict[str, Any], layout: ParallelLayout, folder: Path) -> JobConfig:
    geometry = golden.model_geometry(case["vision_config"], case["llm_config"])
    settings = {"global_batch": 1, "drop_path": 0.0, "clip_grad_norm": 0.0}
    return job(folder, folder, model=geometry.model_dump(), layout=layout.model_dump(), optimization=settings)


def _plain_6b_style(geometry: VisionGeometry) -> torch.Tensor:
    """The encoder as one would write it for a single process, with formula weights; [N, S, H]."""
    h, heads = geometry.hidden, geometry.heads

    def value(name: str, *shape: int) -> torch.Tensor:
        return golden.formula(name, *shape)

    def rms(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + geometry.norm_eps) * value(name, h)

    def linear(x: torch.Tensor, name: str, rows: int, *, bias: bool = True) -> torch.Tensor:
        return torch.nn.functional.linear(
            x, value(f"{name}.weight", rows, x.size(-1)), value(f"{name}.bias", rows) if bias else None
        )

    patch = geometry.patch_size
    weight, bias = value("embeddings.patch_embedding.weight", h, 3, patch, patch), "embeddings.patch_embedding.bias"
    patches = torch.nn.functional.conv2d(golden.pixels(2, geometry.image_size), weight, value(bias, h), stride=patch)
    token = value("embeddings.class_embedding", 1, 1, h).expand(2, 1, h)
    x = torch.cat([token, patches.flatten(2).transpose(1, 2)], 1)
    x = x + value("embeddings.position_embedding", 1, x.size(1), h)
    for layer in range(geometry.layers):
        name = f"encoder.layers.{layer}"
        q, k, v = linear(rms(x, f"{name}.norm1.weight"), f"{name}.attn.qkv", 3 * h, bias=False).chunk(3, -1)
        q, k = rms(q, f"{name}.attn.q_norm.weight"), rms(k, f"{name}.attn.k_norm.weight")
        q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
        probabilities = torch.softmax(q @ k.transpose(-1, -2) / (h // heads) ** 0.5, -1)
        attended = (probabilities @ v).transpose(1, 2).flatten(2)
        x = x + linear(attended, f"{name}.attn.proj", h) * value(f"{name}.ls1", h)
        inner = torch.nn.functional.gelu(linear(rms(x, f"{name}.norm2.weight"), f"{name}.mlp.fc1", geometry.ffn))
        x = x + linear(inner, f"{name}.mlp.fc2", h) * value(f"{name}.ls2", h)
    return x
