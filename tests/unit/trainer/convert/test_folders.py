"""Folders are read and written one tensor at a time, in the format of the safetensors library."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from internvl_trainer.contract.base import Component
from internvl_trainer.convert import folder as folder_module
from internvl_trainer.convert import tables
from internvl_trainer.convert.errors import FolderError, MissingTensorError
from internvl_trainer.convert.folder import HuggingFaceFolder
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.convert.safetensors_file import TensorSpec
from internvl_trainer.convert.write_config import documents
from internvl_trainer.convert.write_folder import plan_shards, write_folder
from internvl_trainer.storage import open_store
from tests.unit.trainer.convert.models import MODELS, PLAIN_VIT, values, write

pytestmark = pytest.mark.unit

MODEL = MODELS[0]
CONFIG = documents(MODEL, Layout.NATIVE, component=Component.VISION, dtype="float32")["config.json"]


def opened(folder: Path) -> HuggingFaceFolder:
    return HuggingFaceFolder(str(folder), open_store())


def stored(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] = CONFIG) -> Path:
    """A folder that the library wrote."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("shard", [10**9, 30_000], ids=["one file", "shards"])
def test_what_is_written_is_read_bit_for_bit(
    model: Any, layout: Layout, dtype: torch.dtype, shard: int, tmp_path: Path
) -> None:
    ours = write(tmp_path / "hf", model, layout, dtype=dtype, max_shard=shard)
    folder = opened(tmp_path / "hf")
    assert folder.description.model(model.name) == model
    mappings = list(tables.mappings(model, layout))
    folder.check(mappings)
    for mapping in mappings:
        merged = folder.merged(mapping)
        assert merged.dtype == dtype
        assert torch.equal(merged, ours[mapping.tensor.key, mapping.tensor.layer]), mapping.tensor


@pytest.mark.parametrize("address", ["{}", "{}/", "file://{}"])
def test_a_folder_is_found_however_its_address_is_written(address: str, tmp_path: Path) -> None:
    write(tmp_path / "InternVL", MODEL, Layout.NATIVE)
    folder = HuggingFaceFolder(address.format(tmp_path / "InternVL"), open_store())
    folder.check(tables.mappings(MODEL, Layout.NATIVE))
    assert folder.name == "InternVL"
    assert folder.read("mlp1.0.bias").shape == (MODEL.projector_input,)


def test_shards_are_what_the_library_and_the_index_say(tmp_path: Path) -> None:
    write(tmp_path / "hf", MODEL, Layout.NATIVE, max_shard=30_000)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    held = {}
    for path in sorted((tmp_path / "hf").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            held |= {name: (path.name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    assert index["weight_map"] == {name: file for name, (file, _) in held.items()}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for _, tensor in held.values())
    assert len(set(index["weight_map"].values())) > 3
    folder = opened(tmp_path / "hf")
    assert all(torch.equal(folder.read(name), tensor) for name, (_, tensor) in held.items())


@pytest.mark.parametrize("part", [7, 10**9], ids=["many requests", "one request"])
def test_a_tensor_is_put_together_from_parts(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"a": values((5, 3), 1), "b": values((4,), 2, torch.bfloat16), "none": torch.empty(0, 3)}
    folder = opened(stored(tmp_path / "hf", tensors))
    monkeypatch.setattr(folder_module, "PART", part)
    assert folder.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(folder.read(name), tensor)
        assert folder.read(name).dtype == tensor.dtype


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 60))
def test_shards_keep_order_and_size(sizes: list[int], limit: int) -> None:
    specs = [TensorSpec(str(number), (size,), torch.uint8) for number, size in enumerate(sizes)]
    shards = plan_shards(specs, limit)
    assert [spec for shard in shards for spec in shard] == specs
    for shard in shards:
        assert sum(spec.size for spec in shard) <= limit or len(shard) == 1


def test_tensors_are_taken_one_at_a_time(tmp_path: Path) -> None:
    specs = [TensorSpec(name, (1000,), torch.float32) for name in "abcd"]
    taken: list[int] = []

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for spec in specs:
            taken.append(len([path for path in (tmp_path / "hf").iterdir() if path.suffix == ".safetensors"]))
            yield spec.name, values(spec.shape, 1)

    write_folder(tmp_path / "hf", specs, tensors(), {"config.json": {}}, max_shard=8000)
    assert taken == [0, 0, 1, 1], "the first shard is on disk before the second one's tensors are asked for"


def test_a_folder_is_whole_only_once_its_configuration_is_there(tmp_path: Path) -> None:
    specs = [TensorSpec("a", (2,), torch.float32), TensorSpec("b", (2,), torch.float32)]
    half = [("a", torch.zeros(2))]
    with pytest.raises(FolderError, match="the tensors ended before b"):
        write_folder(tmp_path / "hf", specs, half, {"config.json": CONFIG})
    assert list((tmp_path / "hf").iterdir()) == []
    with pytest.raises(FolderError, match=r"has no file config\.json"):
        opened(tmp_path / "hf")


def test_tensors_must_come_as_announced(tmp_path: Path) -> None:
    specs = [TensorSpec("a", (2,), torch.float32)]
    for wrong, error in (
        ([("b", torch.zeros(2))], r"tensor b of shape \(2,\) came where a of shape \(2,\) was to come"),
        ([("a", torch.zeros(3))], r"tensor a of shape \(3,\) came where"),
        ([("a", torch.zeros(2)), ("b", torch.zeros(2))], r"tensor b came after all tensors"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(FolderError, match=error):
            write_folder(folder, specs, wrong, {})


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match="is not empty; give a new folder"):
        write_folder(tmp_path, [], [], {})


def test_the_names_of_the_classes_are_read_as_those_of_saved_files(tmp_path: Path) -> None:
    config = documents(MODEL, Layout.TRANSFORMERS, image_token=5)["config.json"]
    names = {
        "model.vision_tower.embeddings.cls_token": "vision_tower.embeddings.cls_token",
        "model.multi_modal_projector.linear_1.weight": "multi_modal_projector.linear_1.weight",
        "model.language_model.norm.weight": "language_model.model.norm.weight",
        "lm_head.weight": "language_model.lm_head.weight",
        "vision_tower.embeddings.position_embeddings": "vision_tower.embeddings.position_embeddings",
        "model.language_model.rotary_emb.inv_freq": None,
    }
    folder = opened(stored(tmp_path / "hf", {name: values((2,), 1) for name in names}, config))
    assert sorted(folder.tensors) == sorted(filter(None, names.values()))


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    config = documents(MODEL, Layout.TRANSFORMERS, image_token=5)["config.json"]
    twice = {name: values((2,), 1) for name in ("lm_head.weight", "language_model.lm_head.weight")}
    with pytest.raises(FolderError, match=r"holds tensor language_model\.lm_head\.weight twice"):
        opened(stored(tmp_path / "hf", twice, config))


def test_missing_and_left_over_tensors_are_named_before_anything_is_read(tmp_path: Path) -> None:
    mappings = list(tables.bare_mappings(MODEL, Component.VISION))
    tensors = {
        name: torch.zeros(shape) for each in mappings for name, shape in zip(each.names, each.shapes, strict=True)
    }
    del tensors["encoder.layers.1.ls2"]
    tensors["encoder.layers.1.lora_A.weight"] = torch.zeros(1)
    folder = opened(stored(tmp_path / "hf", tensors))
    with pytest.raises(MissingTensorError, match=r"lacks encoder\.layers\.1\.ls2 and also has .*lora_A.*adapters"):
        folder.check(mappings)
    tensors["encoder.layers.1.ls2"] = torch.zeros(PLAIN_VIT.hidden)
    with pytest.raises(MissingTensorError, match=r"hf2 also has encoder\.layers\.1\.lora_A\.weight;"):
        opened(stored(tmp_path / "hf2", tensors)).check(mappings)
    with pytest.raises(MissingTensorError, match=r"has no tensor encoder\.layers\.1\.ls2"):
        folder.read("encoder.layers.1.ls2")


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has neither model.safetensors nor model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), r"has no file config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is no JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json holds no JSON object"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "has no weight_map"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}'),
            "has no file b;",
        ),
        (lambda folder: truncate(folder / "model.safetensors", -1), "its header says .*; fetch the file again"),
        (lambda folder: truncate(folder / "model.safetensors", 3), "do not begin with a header's length"),
        (lambda folder: (folder / "model.safetensors").write_bytes(bytes(100)), "do not begin with a header's length"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"{no}"),
            "its header cannot be read",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            r"pytorch_model\.bin, which is pickled .*; load the model with transformers and save it again",
        ),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_refused_with_the_file(break_it: Any, error: str, tmp_path: Path) -> None:
    stored(tmp_path / "hf", {"a": values((5, 3), 1)})
    break_it(tmp_path / "hf")
    with pytest.raises(FolderError, match=error):
        opened(tmp_path / "hf")


def test_quantised_weights_are_refused_by_dtype(tmp_path: Path) -> None:
    folder = opened(stored(tmp_path / "hf", {"a": torch.zeros(3, dtype=torch.int8)}))
    with pytest.raises(FolderError, match=r"tensor a in model\.safetensors is of dtype I8; .*not quantised"):
        folder.read("a")


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
