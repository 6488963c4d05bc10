"""A folder that becomes a checkpoint and a folder again has the same bits, in both layouts."""

from pathlib import Path

import pytest
import torch

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import DrawnWeights, ImportedWeights
from internvl_trainer.contract.tensors import WholeTensor
from internvl_trainer.model.random_start import draw
from tests.integration.convert import folders
from tests.integration.convert.commands import manifest_of, run_export, run_import

pytestmark = pytest.mark.integration

MODELS = [(vision, language) for vision in folders.VISION for language in folders.LANGUAGE]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("vision", "language"), MODELS)
def test_a_native_folder_comes_back_bit_for_bit(vision: str, language: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry(vision, language), dtype=dtype)
    run_import(source, tmp_path / "checkpoint")
    run_export(tmp_path / "checkpoint", tmp_path / "out")
    folders.assert_same_tensors(tmp_path / "out", folders.tensors_of(source))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("vision", folders.VISION)
def test_a_folder_of_transformers_comes_back_bit_for_bit(vision: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source = folders.write_transformers(tmp_path / "source", vision, dtype=dtype)
    run_import(source, tmp_path / "checkpoint")
    run_export(tmp_path / "checkpoint", tmp_path / "out", layout="transformers")
    folders.assert_same_tensors(tmp_path / "out", folders.tensors_of(source))


@pytest.mark.parametrize(("vision", "language"), MODELS)
def test_the_way_through_both_layouts_is_exact(vision: str, language: str, tmp_path: Path) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry(vision, language))
    first = run_import(source, tmp_path / "first")
    run_export(tmp_path / "first", tmp_path / "other-layout", layout="transformers")
    second = run_import(tmp_path / "other-layout", tmp_path / "second")
    run_export(tmp_path / "second", tmp_path / "out")
    folders.assert_same_tensors(tmp_path / "out", folders.tensors_of(source))
    models = [manifest_of(report).model.model_copy(update={"name": "any"}) for report in (first, second)]
    assert models[0] == models[1]


def test_the_bare_vision_encoder_comes_out_as_it_went_in(tmp_path: Path) -> None:
    model = catalog.get("tiny-8b-like")
    source = folders.write_bare(tmp_path / "vit", model, Component.VISION)
    report = run_import(source, tmp_path / "checkpoint")
    assert (report["model"], report["components"]) == ("tiny-8b-like", ["vision"])
    run_export(tmp_path / "checkpoint", tmp_path / "out", "--component", "vision")
    folders.assert_same_tensors(tmp_path / "out", folders.tensors_of(source))


def test_one_component_of_a_whole_model_is_enough(tmp_path: Path) -> None:
    model = folders.geometry("6b", "qwen2.5")
    source = folders.write_native(tmp_path / "source", model)
    report = run_import(source, tmp_path / "checkpoint", "--component", "vision")
    assert report["components"] == ["vision"]
    run_export(tmp_path / "checkpoint", tmp_path / "vit", "--component", "vision")
    whole = folders.tensors_of(source)
    vision = {name.removeprefix("vision_model."): whole[name] for name in model.state_dict_shapes(Component.VISION)}
    folders.assert_same_tensors(tmp_path / "vit", vision)


@pytest.mark.parametrize("language", folders.LANGUAGE)
def test_bare_parts_make_a_start(language: str, tmp_path: Path) -> None:
    model = folders.geometry("300m", language)
    vision = folders.write_bare(tmp_path / "vit", model, Component.VISION)
    decoder = folders.write_bare(tmp_path / "llm", model, Component.LANGUAGE)
    rows = model.language.vocab_size + 3
    options = ("--vision", vision, "--language", decoder, "--vocab-size", rows, "--seed", 7)
    report = run_import(*options, tmp_path / "start")
    run_export(tmp_path / "start", tmp_path / "out")
    found = folders.tensors_of(tmp_path / "out")
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == manifest_of(
        report
    ).model.state_dict_shapes()

    for prefix, part in (("vision_model.", vision), ("language_model.", decoder)):
        for name, tensor in folders.tensors_of(part).items():
            known = tensor.size(0) if tensor.size(0) != model.language.vocab_size else rows - 9
            assert torch.equal(found[prefix + name][:known], tensor[:known]), name
    start = manifest_of(report)
    drawn = draw(start.model, 7, WholeTensor("projector.linear_in.weight", None, tuple(found["mlp1.1.weight"].shape)))
    assert torch.equal(found["mlp1.1.weight"], drawn), "as training itself would have drawn it"
    assert start.imported[Component.PROJECTOR] == DrawnWeights(seed=7)
    assert isinstance(start.imported[Component.VISION], ImportedWeights)


def test_positions_are_resized_where_the_model_takes_other_tiles(tmp_path: Path) -> None:
    model = folders.geometry("300m", "qwen2.5")
    source = folders.write_native(tmp_path / "source", model)
    config = (source / "config.json").read_text()
    (source / "config.json").write_text(config.replace('"force_image_size": 56', '"force_image_size": 112'))
    report = run_import(source, tmp_path / "checkpoint")
    assert manifest_of(report).model.vision.image_size == 112
    run_export(tmp_path / "checkpoint", tmp_path / "out")
    name = "vision_model.embeddings.position_embedding"
    before, after = folders.tensors_of(source)[name], folders.tensors_of(tmp_path / "out")[name]
    grid = before[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    larger = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(after[:, 1:], larger.flatten(2).transpose(1, 2))
    assert torch.equal(after[:, 0], before[:, 0]), "the class token's"


def test_a_dtype_can_be_asked_for(tmp_path: Path) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry("300m", "qwen2.5"))
    run_import(source, tmp_path / "half", "--dtype", "bf16")
    run_export(tmp_path / "half", tmp_path / "out", "--dtype", "fp32")
    rounded = {name: tensor.bfloat16().float() for name, tensor in folders.tensors_of(source).items()}
    folders.assert_same_tensors(tmp_path / "out", rounded)


def test_the_same_source_gives_the_same_identity_and_the_same_bytes(tmp_path: Path) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry("300m", "internlm2.5"))
    one, two = (manifest_of(run_import(source, tmp_path / name)) for name in ("one", "two"))
    assert one.run == two.run
    assert one.objects == two.objects
    other = folders.write_native(tmp_path / "other", folders.geometry("6b", "internlm2.5"))
    assert manifest_of(run_import(other, tmp_path / "three")).run.uid != one.run.uid


def test_a_tokenizer_goes_along(tmp_path: Path) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry("300m", "qwen2.5"))
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    (tokenizer / "notes.txt").write_text("not the tokenizer's")
    run_import(source, tmp_path / "checkpoint")
    run_export(tmp_path / "checkpoint", tmp_path / "out", "--tokenizer", tokenizer)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "out" / "notes.txt").exists()
