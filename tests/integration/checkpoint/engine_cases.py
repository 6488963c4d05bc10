"""What runs on the ranks of a grid: the real engine, saved in the middle and resumed. Each function gets the place."""

from pathlib import Path

import numpy as np

from internvl_trainer.checkpoint.checkpointer import Checkpointer
from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.engine.protocol import StepResult
from internvl_trainer.storage import open_store
from tests.integration.trainer.cases import step
from tests.integration.trainer.packs import IMAGE


def train_through(place: Place, job: JobConfig, scratch: Path, save_at: int) -> tuple[ManifestRef, list[StepResult]]:
    """All steps of the job with a checkpoint after `save_at` of them: its manifest, and the steps after it."""
    engine, checkpointer = _parts(place, job, scratch)
    checkpointer.initialise(engine)
    results = [step(engine, place, job, number) for number in range(save_at)]
    ref = checkpointer.save(engine, _state(results))
    return ref, [step(engine, place, job, number) for number in range(save_at, job.optimization.steps)]


def resume_and_finish(place: Place, job: JobConfig, scratch: Path) -> list[StepResult]:
    """The steps after the checkpoint, by an engine that starts from other random weights and resumes."""
    other_start = job.optimization.model_copy(update={"seed": job.optimization.seed + 1})
    engine, _ = _parts(place, job.model_copy(update={"optimization": other_start}), scratch)
    engine._seed = job.optimization.seed  # drop path draws from it
    state = Checkpointer(job, open_store(), scratch).resume(engine)
    assert state is not None
    return [step(engine, place, job, number) for number in range(state.step, job.optimization.steps)]


def resumed_vision(place: Place, job: JobConfig, scratch: Path) -> dict[str, np.ndarray]:
    """The ViT of a resumed job, which has one process."""
    engine, checkpointer = _parts(place, job, scratch)
    assert checkpointer.resume(engine) is not None
    return _vision(engine)


def vision_from_another_run(place: Place, job: JobConfig, scratch: Path) -> tuple[dict[str, np.ndarray], list[float]]:
    """The ViT of a job of one process that starts from `job.init`, and the losses of four steps on one pack."""
    engine, checkpointer = _parts(place, job, scratch)
    checkpointer.initialise(engine)
    vision = _vision(engine)
    return vision, [step(engine, place, job, 0).loss for _ in range(4)]


def _vision(engine: MegatronEngine) -> dict[str, np.ndarray]:
    weights = engine.model.named_parameters()
    return {
        name: weight.detach().float().numpy().copy() for name, weight in weights if name.startswith("vision_model.")
    }


def _parts(place: Place, job: JobConfig, scratch: Path) -> tuple[MegatronEngine, Checkpointer]:
    return MegatronEngine(job, place, image_token=IMAGE), Checkpointer(job, open_store(), scratch)


def _state(results: list[StepResult]) -> TrainState:
    metrics = tuple(
        StepMetrics(
            step=number, loss=each.loss, grad_norm=each.grad_norm, learning_rate=1e-3, tokens=each.tokens,
            tiles=each.tiles, seconds=0.1,
        )
        for number, each in enumerate(results, start=1)
    )  # fmt: skip
    position = DataPosition(packs=4 * len(results))
    return TrainState(len(results), sum(each.tokens for each in results), position, metrics)
