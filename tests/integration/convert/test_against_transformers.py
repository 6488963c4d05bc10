"""transformers reads what we export, and computes what our own engine and its own original compute."""

from pathlib import Path
from typing import Any

import pytest
import torch

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.data.pack import Pack
from tests.integration.convert import cases, folders
from tests.integration.convert.commands import init_of, manifest_of, run_export, run_import
from tests.integration.trainer import golden
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ABSOLUTE = 1e-4
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
"""ImageNet's, by which all released models normalise."""


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("vision", folders.VISION)
def test_a_model_of_transformers_computes_the_same_in_our_engine_and_after_its_way_back(
    vision: str, tensor: int, tmp_path: Path
) -> None:
    original = folders.transformers_model(vision)
    original.save_pretrained(tmp_path / "source")
    report = run_import(tmp_path / "source", tmp_path / "checkpoint")
    model = manifest_of(report).model
    pack = cases.picture_pack(model, tiles=2, words=6)
    expected_SV = _answer(original, pack)

    layout = ParallelLayout(tensor=tensor)
    for ours in on_grid(layout, cases.logits, _job(report, model, tmp_path, layout), tmp_path / "scratch", pack):
        torch.testing.assert_close(torch.tensor(ours), expected_SV, atol=ABSOLUTE, rtol=0)

    run_export(tmp_path / "checkpoint", tmp_path / "out", layout="transformers")
    assert torch.equal(_answer(_read(tmp_path / "out"), pack), expected_SV)


@pytest.mark.parametrize("vision", folders.VISION)
def test_transformers_computes_an_internlm2_as_the_llama_that_it_is(vision: str, tmp_path: Path) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry(vision, "internlm2.5"))
    report = run_import(source, tmp_path / "checkpoint")
    model = manifest_of(report).model
    pack = cases.picture_pack(model, tiles=2, words=6)
    run_export(tmp_path / "checkpoint", tmp_path / "out", layout="transformers")
    layout = ParallelLayout()
    (ours,) = on_grid(layout, cases.logits, _job(report, model, tmp_path, layout), tmp_path / "scratch", pack)
    torch.testing.assert_close(_answer(_read(tmp_path / "out"), pack), torch.tensor(ours), atol=ABSOLUTE, rtol=0)


class InternLM2:
    """The reference's tiny InternLM2 as part of a native folder, since that is what is imported."""

    case = golden.load("tiny_internlm2.json")
    absolute, relative = 2e-5, 1e-5

    @classmethod
    def folder(cls, path: Path) -> Path:
        """Formula weights under the reference's names."""
        config = cls.case["config"]
        language = folders.LANGUAGE["internlm2.5"].model_copy(
            update={
                "hidden": config["hidden_size"],
                "layers": config["num_hidden_layers"],
                "heads": config["num_attention_heads"],
                "kv_heads": config["num_key_value_heads"],
                "head_dim": config["hidden_size"] // config["num_attention_heads"],
                "ffn": config["intermediate_size"],
                "vocab_size": config["vocab_size"],
                "rope_theta": config["rope_theta"],
                "norm_eps": config["rms_norm_eps"],
                "max_positions": config["max_position_embeddings"],
            }
        )
        model = ModelGeometry(name="golden", vision=folders.VISION["300m"], language=language)
        shapes = {name: tuple(shape) for name, shape in cls.case["param_shapes"].items()}
        assert shapes == {
            name.removeprefix("language_model."): shape
            for name, shape in model.state_dict_shapes().items()
            if name.startswith("language_model.")
        }
        return folders.write_native(path, model, values=cls.values)

    @staticmethod
    def values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """By the reference's formula, whose names have no prefix here."""
        if not name.startswith("language_model."):
            return folders.random_values(name, shape)
        return golden.formula(name.removeprefix("language_model."), *shape)

    @classmethod
    def check_logits(cls, logits: list[list[float]]) -> None:
        """Those that the reference gave."""
        assert logits[-1] == pytest.approx(cls.case["logits_last"], abs=cls.absolute)
        assert logits[4] == pytest.approx(cls.case["logits_pos4"], abs=cls.absolute)


@pytest.mark.parametrize("tensor", [1, 2])
def test_an_imported_internlm2_computes_what_the_reference_computes(tensor: int, tmp_path: Path) -> None:
    case = InternLM2.case
    report = run_import(InternLM2.folder(tmp_path / "source"), tmp_path / "checkpoint")
    layout = ParallelLayout(tensor=tensor)
    work = _job(report, manifest_of(report).model, tmp_path, layout)
    pack = cases.text_pack(case["input_ids"], case["labels"])
    for told in on_grid(layout, cases.loss_and_gradients, work, tmp_path / "scratch", pack):
        InternLM2.check_logits(told.logits)
        assert told.loss == pytest.approx(case["loss"], rel=InternLM2.relative)
        if tensor == 1:  # where one rank has whole tensors
            norms = {f"language_model.{name}": norm for name, norm in case["grad_norms"].items()}
            assert told.gradient_norms == pytest.approx(norms, rel=InternLM2.relative)


def test_the_exported_llama_computes_what_the_reference_computes(tmp_path: Path) -> None:
    run_import(InternLM2.folder(tmp_path / "source"), tmp_path / "checkpoint")
    run_export(tmp_path / "checkpoint", tmp_path / "out", layout="transformers")
    pack = cases.text_pack(InternLM2.case["input_ids"], InternLM2.case["labels"])
    InternLM2.check_logits(_answer(_read(tmp_path / "out"), pack).tolist())


def _job(report: dict[str, Any], model: ModelGeometry, folder: Path, layout: ParallelLayout) -> JobConfig:
    settings = {"global_batch": 1, "drop_path": 0.0, "clip_grad_norm": 0.0}
    parts = {"model": model.model_dump(), "layout": layout.model_dump(), "init": init_of(report)}
    return job(folder, folder / "store", optimization=settings, **parts)


def _read(folder: Path) -> Any:
    from transformers import InternVLForConditionalGeneration

    return InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def _answer(model: Any, pack: Pack) -> torch.Tensor:
    """Logits [S, V] of transformers."""
    tokens_1S = torch.from_numpy(pack.tokens_S)[None]
    pixels = None
    if pack.tiles_NHWC is not None:
        scaled = torch.from_numpy(pack.tiles_NHWC).float() / 255
        pixels = ((scaled - MEAN) / STD).permute(0, 3, 1, 2)
    logits: torch.Tensor = model(input_ids=tokens_1S, pixel_values=pixels).logits[0]
    return logits
