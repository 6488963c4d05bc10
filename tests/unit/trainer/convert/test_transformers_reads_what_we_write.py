"""`transformers`' own InternVL loads our folders, every tensor of them, and has its weights where ours are."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, InternVLForConditionalGeneration, InternVLVisionModel

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.convert import tables
from internvl_trainer.convert.folder import HuggingFaceFolder
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.convert.write_config import documents
from internvl_trainer.convert.write_folder import write_folder
from internvl_trainer.storage import open_store
from tests.unit.trainer.convert.models import IMAGE_TOKEN, MODELS, our_tensors, tensor_specs, write

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("shard", [10**9, 40_000], ids=["one file", "shards"])
def test_a_whole_model_loads_with_no_tensor_missing_or_left_over(
    model: ModelGeometry, shard: int, tmp_path: Path
) -> None:
    write(tmp_path / "hf", model, Layout.TRANSFORMERS, max_shard=shard)
    loaded, report = InternVLForConditionalGeneration.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values()), report
    assert loaded.dtype == torch.float32
    assert loaded.lm_head.weight.data_ptr() != loaded.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_what_transformers_saves_again_is_what_we_wrote(model: ModelGeometry, tmp_path: Path) -> None:
    ours = write(tmp_path / "hf", model, Layout.TRANSFORMERS)
    InternVLForConditionalGeneration.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "again")
    folder = HuggingFaceFolder(str(tmp_path / "again"), open_store())
    assert folder.description.model(model.name) == model
    mappings = tuple(tables.mappings(model, Layout.TRANSFORMERS))
    folder.check(mappings)
    for mapping in mappings:
        assert torch.equal(folder.merged(mapping), ours[mapping.tensor.key, mapping.tensor.layer]), mapping.tensor


@pytest.mark.parametrize("model", MODELS[::2], ids=lambda model: model.name)
def test_a_vision_encoder_loads_alone(model: ModelGeometry, tmp_path: Path) -> None:
    ours = our_tensors(model)
    mappings = tuple(tables.bare_mappings(model, Component.VISION, Layout.TRANSFORMERS))
    parts = (
        part
        for mapping in mappings
        for part in zip(mapping.names, mapping.split(ours[mapping.tensor.key, mapping.tensor.layer]), strict=True)
    )
    files = documents(model, Layout.TRANSFORMERS, component=Component.VISION, dtype="float32")
    write_folder(tmp_path / "hf", tensor_specs(mappings, torch.float32), parts, files)
    _, report = InternVLVisionModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values()), report


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_configuration_survives_a_trip_through_transformers(model: ModelGeometry, tmp_path: Path) -> None:
    write(tmp_path / "hf", model, Layout.TRANSFORMERS)
    config = AutoConfig.from_pretrained(tmp_path / "hf")
    assert config.image_token_id == IMAGE_TOKEN
    assert config.image_seq_length == model.tokens_per_tile
    assert config.text_config.rope_parameters["rope_theta"] == model.language.rope_theta
    assert not config.tie_word_embeddings
    assert not config.text_config.tie_word_embeddings


def test_pictures_are_prepared_as_in_training(tmp_path: Path) -> None:
    write(tmp_path / "hf", MODELS[0], Layout.TRANSFORMERS)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    assert (processor.size["height"], processor.size["width"]) == (56, 56)
    assert (processor.crop_to_patches, processor.min_patches, processor.max_patches) == (True, 1, 12)
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
