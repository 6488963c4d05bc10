"""What import and export refuse, how they say it, and that nothing is left behind."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.convert.cli import export, import_
from tests.integration.convert import folders
from tests.integration.convert.commands import refused, run_export, run_import

pytestmark = pytest.mark.integration

MODEL = folders.geometry("300m", "qwen2.5")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folders.write_native(tmp_path / "source", MODEL, files=1)


def _rewrite(source: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = folders.tensors_of(source)
    change(tensors)
    save_file(tensors, source / "model.safetensors")


def _configure(source: Path, part: str | None, **fields: Any) -> None:
    config = json.loads((source / "config.json").read_text())
    (config[part] if part else config).update(fields)
    (source / "config.json").write_text(json.dumps(config))


NORM = "language_model.model.norm.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(NORM), f"lacks {NORM}"),
        (lambda tensors: tensors.update({"lora_A.weight": torch.zeros(1)}), "also has lora_A.weight"),
        (lambda tensors: tensors.update({NORM: torch.zeros(9)}), rf"tensor {NORM} has shape \(9,\).*gives it \(48,\)"),
        (lambda tensors: tensors.update({NORM: torch.zeros(48, dtype=torch.int8)}), "is of dtype I8"),
    ],
)
def test_weights_that_are_not_the_models(
    source: Path, change: Callable[[dict[str, torch.Tensor]], Any], said: str, tmp_path: Path
) -> None:
    _rewrite(source, change)
    code, text = refused(import_, source, tmp_path / "checkpoint")
    assert code == ExitCode.INVALID_CONFIG
    assert re.search(said, text), text
    assert not (tmp_path / "checkpoint" / "MANIFEST.json").exists()


def test_a_wrong_shape_in_the_last_layer_is_found_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    last = f"language_model.model.layers.{MODEL.language.layers - 1}.mlp.down_proj.weight"
    _rewrite(source, lambda tensors: tensors.update({last: torch.zeros(2, 2)}))
    code, text = refused(import_, source, tmp_path / "checkpoint")
    assert (code, last in text) == (ExitCode.INVALID_CONFIG, True)
    assert not (tmp_path / "checkpoint").exists()


def test_a_base_with_too_few_tokens_is_found_before_anything_is_written(tmp_path: Path) -> None:
    vision = folders.write_bare(tmp_path / "vision", MODEL, Component.VISION)
    language = folders.write_bare(tmp_path / "language", MODEL, Component.LANGUAGE)
    combine = ("--vision", str(vision), "--language", str(language))
    code, text = refused(import_, tmp_path / "checkpoint", *combine)
    assert code == ExitCode.INVALID_CONFIG
    assert "has 131 tokens" in text
    assert "--vocab-size" in text
    assert not (tmp_path / "checkpoint").exists()


def test_a_truncated_weight_file(source: Path, tmp_path: Path) -> None:
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    code, text = refused(import_, source, tmp_path / "checkpoint")
    assert code == ExitCode.INVALID_CONFIG
    assert "model.safetensors has" in text
    assert "fetch the file again" in text
    assert not (tmp_path / "checkpoint").exists()


def test_another_model_than_the_one_asked_for(source: Path, tmp_path: Path) -> None:
    code, text = refused(import_, source, tmp_path / "checkpoint", "--model", "tiny-1b-like")
    assert code == ExitCode.INVALID_CONFIG
    assert "vision encoder" in text
    assert "layers 2 instead of 4" in text


def test_a_model_that_the_catalogue_does_not_have_is_imported_with_a_note(source: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(import_, [str(source), str(tmp_path / "checkpoint")])
    assert result.exit_code == 0
    assert "Note: source is no model of the catalogue" in result.stderr


def test_a_model_name_that_nobody_knows(source: Path, tmp_path: Path) -> None:
    code, text = refused(import_, source, tmp_path / "checkpoint", "--model", "InternVL9")
    assert code == ExitCode.INVALID_CONFIG
    assert "known models: InternVL2_5-1B" in text


def test_a_configuration_that_we_would_compute_otherwise(source: Path, tmp_path: Path) -> None:
    _configure(source, None, ps_version="v1")
    code, text = refused(import_, source, tmp_path / "checkpoint")
    assert code == ExitCode.INVALID_CONFIG
    assert "ps_version is 'v1'" in text


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    code, text = refused(import_, tmp_path / "nowhere", tmp_path / "checkpoint")
    assert code == ExitCode.INVALID_CONFIG
    assert "config.json" in text


def test_a_bare_language_model_alone(tmp_path: Path) -> None:
    language = folders.write_bare(tmp_path / "llm", MODEL, Component.LANGUAGE)
    _, text = refused(import_, language, tmp_path / "checkpoint")
    assert "internvl import --vision FOLDER --language FOLDER" in text


def test_parts_that_are_exchanged(tmp_path: Path) -> None:
    language = folders.write_bare(tmp_path / "llm", MODEL, Component.LANGUAGE)
    vision = folders.write_bare(tmp_path / "vit", MODEL, Component.VISION)
    _, text = refused(import_, "--vision", language, "--language", vision, tmp_path / "checkpoint")
    assert "llm holds no vision encoder" in text


def test_a_bare_vision_encoder_that_no_model_has(tmp_path: Path) -> None:
    vision = folders.write_bare(tmp_path / "vit", MODEL, Component.VISION)
    _, text = refused(import_, vision, tmp_path / "checkpoint")
    assert "no model of the catalogue has" in text


@pytest.mark.parametrize(
    "arguments", [["one"], ["one", "two", "three"], ["--vision", "a", "b"], ["--vision", "a", "--language", "b"]]
)
def test_arguments_that_make_no_sense(arguments: list[str]) -> None:
    code, text = refused(import_, *arguments)
    assert code == ExitCode.INVALID_CONFIG
    assert "internvl import" in text or "--vision and --language belong together" in text


def test_a_destination_that_holds_a_checkpoint(source: Path, tmp_path: Path) -> None:
    run_import(source, tmp_path / "checkpoint")
    code, text = refused(import_, source, tmp_path / "checkpoint")
    assert code == ExitCode.CHECKPOINT_CONFLICT
    assert "holds a checkpoint already" in text


def test_a_destination_that_holds_something_else(source: Path, tmp_path: Path) -> None:
    code, text = refused(import_, source, tmp_path)
    assert code == ExitCode.CHECKPOINT_CONFLICT
    assert "source/" in text


def test_an_export_never_touches_a_folder_with_something_in_it(source: Path, tmp_path: Path) -> None:
    run_import(source, tmp_path / "checkpoint")
    before = sorted(path.read_bytes() for path in source.iterdir())
    code, text = refused(export, tmp_path / "checkpoint", source, "--layout", "native")
    assert code == ExitCode.INVALID_CONFIG
    assert "is not empty" in text
    assert sorted(path.read_bytes() for path in source.iterdir()) == before


def test_an_export_of_a_damaged_checkpoint_leaves_no_folder(source: Path, tmp_path: Path) -> None:
    run_import(source, tmp_path / "checkpoint")
    shard = tmp_path / "checkpoint" / "vision__0_1.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    code, text = refused(export, tmp_path / "checkpoint", tmp_path / "out", "--layout", "native")
    assert code == ExitCode.INVALID_CHECKPOINT
    assert "DigestMismatch: object vision__0_1.distcp" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "source"]


def test_an_export_of_a_part_that_is_not_there(source: Path, tmp_path: Path) -> None:
    run_import(source, tmp_path / "checkpoint", "--component", "vision")
    for options, lacking in (([], "no projector and no language"), (["--component", "language"], "no language")):
        code, text = refused(export, tmp_path / "checkpoint", tmp_path / "out", "--layout", "native", *options)
        assert code == ExitCode.INVALID_CHECKPOINT
        assert f"holds {lacking}, only vision" in text
    run_export(tmp_path / "checkpoint", tmp_path / "vit", "--component", "vision")


def test_an_export_of_what_is_no_checkpoint(tmp_path: Path) -> None:
    code, text = refused(export, tmp_path / "nowhere", tmp_path / "out", "--layout", "native")
    assert code == ExitCode.INVALID_CHECKPOINT
    assert "MANIFEST.json" in text


def test_an_export_into_a_bucket(tmp_path: Path) -> None:
    code, text = refused(export, tmp_path, "s3://bucket/model", "--layout", "native")
    assert code == ExitCode.INVALID_CONFIG
    assert "s3://bucket/model is no path" in text


def test_a_layout_that_nobody_knows(tmp_path: Path) -> None:
    code, text = refused(export, tmp_path, tmp_path / "out", "--layout", "onnx")
    assert code == ExitCode.INVALID_CONFIG
    assert "'native', 'transformers'" in text


def test_a_vocabulary_that_is_not_the_released_one_needs_the_image_tokens_id(source: Path, tmp_path: Path) -> None:
    run_import(source, tmp_path / "checkpoint")
    code, text = refused(export, tmp_path / "checkpoint", tmp_path / "out", "--layout", "transformers")
    assert code == ExitCode.INVALID_CONFIG
    assert "--image-token" in text or "<IMG_CONTEXT>" in text


def test_a_tokenizer_folder_without_a_tokenizer(source: Path, tmp_path: Path) -> None:
    run_import(source, tmp_path / "checkpoint")
    options = ("--layout", "native", "--tokenizer", source)
    code, text = refused(export, tmp_path / "checkpoint", tmp_path / "out", *options)
    assert code == ExitCode.INVALID_CONFIG
    assert "no tokenizer.json" in text
    assert not (tmp_path / "out").exists()
