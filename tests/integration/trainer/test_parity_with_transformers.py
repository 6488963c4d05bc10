"""The whole model, imported by our importer, computes what `transformers` computes: logits and every gradient.

The expected values come from transformers' own InternVL on the same samples, one by one, without packing. Ours come
from each process grid, on one pack and on a pack per sample. Gradients travel back as a checkpoint that is exported:
so each is compared under the name, and in the shape, that transformers gives its weight.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import Manifest, ManifestRef, ParallelLayout
from internvl_trainer.convert.cli import export, import_
from internvl_trainer.data.pack import Pack
from internvl_trainer.storage import open_store
from tests.integration.trainer import parity_cases, transformers_models
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.transformers_models import IMAGE, STYLES, VOCABULARY, Sample
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

GRIDS: dict[str, tuple[ParallelLayout, dict[str, Any]]] = {
    "one-process": (ParallelLayout(), {}),
    "tp2": (ParallelLayout(tensor=2), {}),
    "pp2": (ParallelLayout(pipeline=2), {}),
    "tp2-pp2": (ParallelLayout(tensor=2, pipeline=2), {}),
    "tp2-pp2-sequence-tiles": (
        ParallelLayout(tensor=2, pipeline=2),
        {"sequence": True, "vision": "tiles", "pipeline_layers": (1, 3)},
    ),
}


class Imported(NamedTuple):
    """A model of transformers, and its checkpoint in our form."""

    style: str
    logits: list[torch.Tensor]
    gradients: dict[str, torch.Tensor]
    checkpoint: ManifestRef
    geometry: ModelGeometry


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> list[Imported]:
    return [_import(style, tmp_path_factory.mktemp(style)) for style in STYLES]


@pytest.mark.parametrize("grid", GRIDS)
def test_logits_and_gradients_are_those_of_transformers(imported: list[Imported], grid: str, tmp_path: Path) -> None:
    layout, partition = GRIDS[grid]
    samples = transformers_models.samples()
    together = [_pack(0, samples)]
    apart = [_pack(number, [sample]) for number, sample in enumerate(samples)]
    for name, packs in {"packed": together, "unpacked": apart}.items():
        jobs = [_job(model, layout, partition, tmp_path, len(packs), f"{name}-{model.style}") for model in imported]
        ranks = on_grid(layout, parity_cases.compute, jobs, packs, IMAGE, tmp_path / "scratch")
        for number, model in enumerate(imported):
            last_stage = [computed[number] for computed in ranks if computed[number].logits]
            assert len(last_stage) == layout.tensor, "the last pipeline stage of each tensor-parallel rank has logits"
            for computed in last_stage:
                _same_logits(computed.logits, model)
            _same_gradients(ranks[0][number].gradients, model, tmp_path / f"gradients-{name}-{model.style}")


def _same_logits(ours: list[np.ndarray], model: Imported) -> None:
    expected = torch.cat(model.logits)
    logits_SV = torch.from_numpy(np.concatenate(ours))[: len(expected)]
    assert logits_SV.shape[1] == VOCABULARY
    torch.testing.assert_close(logits_SV, expected, atol=1e-4, rtol=1e-4)


def _same_gradients(checkpoint: str, model: Imported, folder: Path) -> None:
    _run(export, checkpoint, str(folder), "--layout", "transformers", "--image-token", str(IMAGE))
    ours = load_file(folder / "model.safetensors")
    assert set(ours) == set(model.gradients)
    # Relative to the tensor's own size, so that a wrong factor in a small gradient cannot hide. The floor is for the
    # key biases of the vision encoder: without positions in its scores, softmax makes their gradient zero but for
    # rounding.
    floor = 1e-4 * max(float(expected.abs().max()) for expected in model.gradients.values())
    errors = {
        name: float((ours[name] - expected).abs().max()) / max(float(expected.abs().max()), floor)
        for name, expected in model.gradients.items()
    }
    assert {name: error for name, error in errors.items() if error > 1e-4} == {}


def _import(style: str, folder: Path) -> Imported:
    model = transformers_models.build(style)
    transformers_models.saved(model, folder / "model")
    _run(import_, str(folder / "model"), f"file://{folder}/checkpoint")
    samples = transformers_models.samples()
    with torch.no_grad():
        logits = [transformers_models.logits_of(model, sample) for sample in samples]
    gradients = transformers_models.gradients_of(model, samples, folder / "gradients")
    uri = f"file://{folder}/checkpoint/MANIFEST.json"
    payload = open_store().read(uri)
    checkpoint = ManifestRef(uri=uri, sha256=hashlib.sha256(payload).hexdigest())
    return Imported(style, logits, gradients, checkpoint, Manifest.from_bytes(payload).model)


def _job(
    model: Imported, layout: ParallelLayout, partition: dict[str, Any], folder: Path, batch: int, uid: str
) -> JobConfig:
    settings = {"global_batch": batch, "drop_path": 0.0, "clip_grad_norm": 0.0, "warmup_steps": 0}
    return job(
        folder,
        folder / "store",
        run={"uid": uid, "namespace": "default", "name": "parity"},
        model=model.geometry.model_dump(),
        layout=layout.model_dump(),
        partition=partition,
        optimization=settings,
        init={component: model.checkpoint.model_dump() for component in Component},
    )


def _pack(index: int, samples: list[Sample]) -> Pack:
    tokens = [sample.tokens_S for sample in samples]
    weights = [np.where(sample.labels_S == -100, 0, sample.weight).astype(np.float32) for sample in samples]
    tiles = np.concatenate([sample.tiles_NPPC for sample in samples])
    return Pack(
        index,
        tuple(f"sample-{number}" for number in range(len(samples))),
        np.concatenate(tokens),
        np.concatenate([sample.labels_S for sample in samples]),
        np.concatenate(weights),
        np.cumsum([0, *map(len, tokens)]).astype(np.int32),
        tiles,
        tuple(len(sample.tiles_NPPC) for sample in samples),
    )


def _run(command: Any, *arguments: str) -> Any:
    result: Result = CliRunner().invoke(command, [*arguments, "--output", "json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
