"""What runs on the ranks of a test's grid. Each function gets the rank's place first."""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values

from internvl_trainer.checkpoint.checkpointer import Checkpointer
from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.contract import environment
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.engine.batch import to_device
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.engine.protocol import StepResult
from internvl_trainer.inference.generate import Question
from internvl_trainer.inference.load import opened
from internvl_trainer.storage import open_store
from internvl_trainer.train.main import run
from tests.integration.trainer.packs import IMAGE, Images, pack

RATE = 1e-3


def work(config: Path, log: Path, scratch: Path) -> int:
    """What the launcher starts, with its log in a file; returns the exit code."""
    os.environ[environment.SCRATCH] = str(scratch)
    with log.open("a", buffering=1) as sys.stderr:
        return run(config)


class Training(NamedTuple):
    """What a few steps did, as one rank saw it."""

    steps: list[StepResult]
    moved: set[str]
    """Components with a weight that changed."""
    optimized: set[str]
    """Components with optimizer state."""


def train(place: Place, jobs: list[JobConfig], steps: int, images: Images = "mixed") -> list[Training]:
    """Train each job from its own random start, on packs by formula."""
    return [_train_one(place, job, steps, images) for job in jobs]


def train_on_all_kinds(place: Place, jobs: list[JobConfig], steps: dict[Images, int]) -> dict[Images, list[Training]]:
    """The same for each kind of packs."""
    return {images: train(place, jobs, count, images) for images, count in steps.items()}


def _train_one(place: Place, job: JobConfig, steps: int, images: Images) -> Training:
    engine = MegatronEngine(job, place, image_token=IMAGE)
    before = {name: weight.detach().clone() for name, weight in engine.model.named_parameters()}
    results = [step(engine, place, job, number, images) for number in range(steps)]
    moved = {name for name, weight in engine.model.named_parameters() if not torch.equal(before[name], weight)}
    state = nested_values(engine.sharded_optimizer_state())
    keys = [value.key.split(".", 3)[3] for value in state if isinstance(value, ShardedTensor)]
    return Training(results, {name.split(".")[0] for name in moved}, {key.split(".")[0] for key in keys})


def step(engine: MegatronEngine, place: Place, job: JobConfig, number: int, images: Images = "mixed") -> StepResult:
    """One step on this rank's packs of the global order."""
    indices = place.pack_indices(number, job.optimization.global_batch)
    packs = [pack(index, job.model, with_tiles=place.needs_tiles, images=images) for index in indices]
    return engine.train_step(packs, RATE, number)


def meet_a_wrong_pack(place: Place, job: JobConfig) -> str:
    """Give the last data-parallel rank a pack that lacks placeholders: what each rank says."""
    engine = MegatronEngine(job, place, image_token=IMAGE)
    packs = [pack(index, job.model, with_tiles=place.needs_tiles) for index in place.pack_indices(0, 2)]
    if place.data_rank == place.data_size - 1:
        tokens = packs[0].tokens_S.copy()
        tokens[np.flatnonzero(tokens == IMAGE)[0]] = 11
        packs[0] = _with_tokens(packs[0], tokens)
    try:
        engine.train_step(packs, RATE, 0)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    except RuntimeError as error:
        return type(error).__name__
    return "nothing"


class Untouched(NamedTuple):
    """What a step on text alone did to one weight of vision encoder or projector."""

    name: str
    axes: int
    largest_gradient: float
    shrunk_by: float
    """What its largest element lost, as a part of it: weight decay's doing, as its gradient is zero."""


def train_without_images(place: Place, job: JobConfig) -> list[Untouched]:
    """One step on a global batch of text."""
    engine = MegatronEngine(job, place, image_token=IMAGE)
    weights = [pair for pair in engine.model.named_parameters() if not pair[0].startswith("language_model.")]
    with torch.no_grad():
        for _, weight in weights:
            weight += 1  # biases begin at zero, where no decay would show
    engine.load_model_state({})  # the optimizer takes its copies again
    before = {name: weight.detach().clone() for name, weight in weights}
    text_only = pack(3, job.model, with_tiles=place.needs_tiles)
    engine.train_step([text_only] * len(place.pack_indices(0, job.optimization.global_batch)), RATE, 0)
    return [
        Untouched(
            name, weight.dim(), float(weight.main_grad.abs().max()), float((1 - weight / before[name]).abs().max())
        )
        for name, weight in weights
    ]


def _with_tokens(original: Any, tokens: np.ndarray) -> Any:
    return type(original)(**{**original.__dict__, "tokens_S": tokens})


class Told(NamedTuple):
    """What a model said when asked."""

    answers: list[str]
    likelihoods: list[list[float]]
    first_alone: str
    alone: list[float]


def ask(ref: ManifestRef, tokenizer: str, scratch: Path, text: str, pictures: list[Any], candidates: list[str]) -> Told:
    """Ask a checkpoint's model about pictures, together and one by one."""
    with opened(ref, tokenizer=tokenizer, store=open_store(), scratch=scratch, max_tiles=2) as answerer:
        questions = [Question.of(text, picture) for picture in pictures]
        return Told(
            answers=answerer.generate(questions, max_new_tokens=12),
            likelihoods=[answerer.log_likelihoods(question, candidates) for question in questions],
            first_alone=answerer.generate(questions[:1], max_new_tokens=12)[0],
            alone=[answerer.log_likelihoods(questions[0], [candidate])[0] for candidate in candidates],
        )


def train_and_save(place: Place, job: JobConfig, scratch: Path, *, before: int, after: int) -> list[StepResult]:
    """Some steps, a checkpoint, and the results of some steps more."""
    engine = MegatronEngine(job, place, image_token=IMAGE)
    results = [step(engine, place, job, number) for number in range(before)]
    Checkpointer(job, open_store(), scratch).save(engine, state_after(results, job))
    return [step(engine, place, job, number) for number in range(before, before + after)]


def state_after(results: list[StepResult], job: JobConfig) -> TrainState:
    """Where training stands after these first steps of a job."""
    metrics = [
        StepMetrics(step=number, learning_rate=RATE, seconds=1.0, **result._asdict())
        for number, result in enumerate(results, start=1)
    ]
    return TrainState(len(results), 1, DataPosition(packs=len(results) * job.optimization.global_batch), tuple(metrics))


def resume_and_train(place: Place, job: JobConfig, scratch: Path, *, after: int) -> list[StepResult]:
    """A new engine, with spoilt weights, resumes from the job's checkpoint and does some steps more."""
    engine = MegatronEngine(job, place, image_token=IMAGE)
    spoil(engine)
    state = Checkpointer(job, open_store(), scratch).resume(engine)
    assert state is not None
    return [step(engine, place, job, number) for number in range(state.step, state.step + after)]


def spoil(engine: MegatronEngine) -> None:
    """Overwrite all weights with what no training survives."""
    with torch.no_grad():
        for weight in engine.model.parameters():
            weight.fill_(float("nan"))


class Summands(NamedTuple):
    """One step of a batch with a given loss denominator, and what its loss is made of."""

    result: StepResult
    numerators: list[float]
    """sum(weight * cross entropy) of each of this rank's packs, in micro-batch order."""
    weights: list[float]


def divide(place: Place, job: JobConfig, without_weight: list[int]) -> Summands:
    """One step; packs numbered in `without_weight` carry loss weights of zero."""
    engine = MegatronEngine(job, place, image_token=IMAGE)
    packs = [pack(index, job.model) for index in place.pack_indices(0, job.optimization.global_batch)]
    for each in packs:
        each.weights_S[:] *= each.index not in without_weight
    with torch.no_grad():
        batches = [to_device(each, IMAGE, torch.device("cpu"), None) for each in packs]
        numerators = [float(engine.model(batch).total) for batch in batches]
    weights = [float(each.weights_S.sum(dtype="float64")) for each in packs]
    return Summands(engine.train_step(packs, RATE, 0), numerators, weights)
