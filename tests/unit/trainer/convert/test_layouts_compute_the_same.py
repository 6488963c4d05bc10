"""A native folder of the reference's formula weights, turned into the transformers layout: `transformers` then
computes what the reference computed. Nothing of ours computes here; only the conversion is between the two.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, InternVLForConditionalGeneration, LlamaForCausalLM

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.convert import internlm2
from internvl_trainer.convert.folder import HuggingFaceFolder
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.convert.read_config import describe
from internvl_trainer.convert.tables import table
from internvl_trainer.convert.write_config import documents
from internvl_trainer.convert.write_folder import write_folder
from internvl_trainer.storage import open_store
from tests.integration.trainer import golden
from tests.unit.trainer.convert.models import tensor_specs

pytestmark = pytest.mark.unit

WHOLE: dict[str, Any] = golden.load("tiny_internvl_forward.json")["cases"][0]
INTERNLM: dict[str, Any] = golden.load("tiny_internlm2.json")
ABSOLUTE = 2e-5


def native_folder(folder: Path, config: dict[str, Any], shapes: Iterable[tuple[str, Collection[int]]]) -> Path:
    """What the reference would have saved."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: golden.formula(name, *shape) for name, shape in shapes}, folder / "model.safetensors")
    return folder


def converted(native: Path, target: Path, model: ModelGeometry, component: Component | None, **options: Any) -> Path:
    """The same model in the transformers layout, by way of our tensors."""
    folder = HuggingFaceFolder(str(native), open_store())
    tables = [table(model, each) for each in ([component] if component else Component)]
    bare = component is not None
    theirs = [mapping for each in tables for mapping in each.mappings(Layout.TRANSFORMERS, bare=bare)]
    ours = [mapping for each in tables for mapping in each.mappings(Layout.NATIVE, bare=bare)]
    folder.check(ours)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for source, sink in zip(ours, theirs, strict=True):
            yield from zip(sink.names, sink.split(folder.merged(source)), strict=True)

    files = documents(model, Layout.TRANSFORMERS, component=component, dtype="float32", **options)
    write_folder(target, tensor_specs(theirs, torch.float32), tensors(), files)
    return target


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> InternVLForConditionalGeneration:
    config = {
        "model_type": "internvl_chat",
        "force_image_size": WHOLE["vision_config"]["image_size"],
        "vision_config": WHOLE["vision_config"],
        "llm_config": WHOLE["llm_config"],
    }
    model = golden.model_geometry(WHOLE["vision_config"], WHOLE["llm_config"])
    folder = tmp_path_factory.mktemp("whole")
    native = native_folder(folder / "native", config, model.state_dict_shapes().items())
    assert HuggingFaceFolder(str(native), open_store()).description.model("golden") == model
    target = converted(native, folder / "hf", model, None, image_token=WHOLE["img_context_token_id"])
    return InternVLForConditionalGeneration.from_pretrained(target, attn_implementation="eager")


def test_projected_features_of_a_whole_model(whole: InternVLForConditionalGeneration) -> None:
    with torch.no_grad():
        features = whole.get_image_features(golden.pixels(3, 28)[:2]).pooler_output
    assert features[0, 0].tolist() == pytest.approx(WHOLE["projected_feature_tok0"], abs=ABSOLUTE)
    assert features[1, 3].tolist() == pytest.approx(WHOLE["projected_feature_tok3_img1"], abs=ABSOLUTE)
    assert float(features.abs().sum()) == pytest.approx(WHOLE["projected_abs_sum"], rel=1e-5)


def test_logits_of_a_whole_model(whole: InternVLForConditionalGeneration) -> None:
    tokens = torch.tensor([WHOLE["sampleA"]["input_ids"]])
    with torch.no_grad():
        logits = whole(input_ids=tokens, pixel_values=golden.pixels(3, 28)[:2]).logits[0]
    assert logits[-1].tolist() == pytest.approx(WHOLE["logits_A_last"], abs=ABSOLUTE)
    assert logits[13].tolist() == pytest.approx(WHOLE["logits_A_pos13"], abs=ABSOLUTE)


@pytest.fixture(scope="module")
def internlm(tmp_path_factory: pytest.TempPathFactory) -> LlamaForCausalLM:
    folder = tmp_path_factory.mktemp("internlm")
    config = INTERNLM["config"] | {"model_type": "internlm2"}
    native = native_folder(folder / "native", config, INTERNLM["param_shapes"].items())
    language = HuggingFaceFolder(str(native), open_store()).description.language
    model = ModelGeometry(name="golden", vision=catalog.TINY_VIT, language=language)
    target = converted(native, folder / "hf", model, Component.LANGUAGE)
    return AutoModelForCausalLM.from_pretrained(target, attn_implementation="eager")


def test_internlm2_is_the_llama_that_it_is_exported_as(internlm: LlamaForCausalLM) -> None:
    assert isinstance(internlm, LlamaForCausalLM)
    tokens, labels = torch.tensor([INTERNLM["input_ids"]]), torch.tensor([INTERNLM["labels"]])
    output = internlm(input_ids=tokens, labels=labels)
    assert output.logits[0, -1].tolist() == pytest.approx(INTERNLM["logits_last"], abs=ABSOLUTE)
    assert output.logits[0, 4].tolist() == pytest.approx(INTERNLM["logits_pos4"], abs=ABSOLUTE)
    assert output.loss.item() == pytest.approx(INTERNLM["loss"], rel=1e-5)


def test_internlm2_s_gradients_come_back_under_its_own_names(internlm: LlamaForCausalLM) -> None:
    internlm.zero_grad()
    tokens, labels = torch.tensor([INTERNLM["input_ids"]]), torch.tensor([INTERNLM["labels"]])
    internlm(input_ids=tokens, labels=labels).loss.backward()
    gradients = {name: parameter.grad for name, parameter in internlm.named_parameters()}
    norms: dict[str, float] = {}
    language = describe(INTERNLM["config"] | {"model_type": "internlm2"}).language
    rows = internlm2.table(language)
    for native, llama in zip(
        rows.mappings(Layout.NATIVE, bare=True), rows.mappings(Layout.TRANSFORMERS, bare=True), strict=True
    ):
        ours = llama.merge([gradients[name] for name in llama.names])
        norms |= {name: float(part.norm()) for name, part in zip(native.names, native.split(ours), strict=True)}
    assert norms == pytest.approx(INTERNLM["grad_norms"], rel=2e-4, abs=1e-7)
