"""What runs on the ranks of a grid to compare the whole model with `transformers`. Place first.

Shapes: S tokens of a pack, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from megatron.core.pipeline_parallel import get_forward_backward_func

from internvl_trainer.checkpoint.checkpointer import Checkpointer
from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.data.pack import Pack
from internvl_trainer.engine.batch import to_device
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.model.batch import MicroBatch
from internvl_trainer.storage import open_store


class Computed(NamedTuple):
    """What one rank has seen of a model's step on some packs."""

    logits: list[np.ndarray]
    """[S, V] per pack, on the last pipeline stage; empty elsewhere."""
    gradients: str
    """URI of a checkpoint that holds gradients in place of weights."""


def compute(place: Place, jobs: Sequence[JobConfig], packs: list[Pack], image: int, scratch: Path) -> list[Computed]:
    """For each job: start from its checkpoint, logits of all packs, and the gradients of one step on them."""
    return [_compute(place, job, packs, image, scratch / job.run.uid) for job in jobs]


def _compute(place: Place, job: JobConfig, packs: list[Pack], image: int, scratch: Path) -> Computed:
    engine = MegatronEngine(job, place, image_token=image)
    checkpoints = Checkpointer(job, open_store(), scratch)
    checkpoints.initialise(engine)
    logits = _logits(engine, packs, image)
    result = engine.train_step(packs, 0.0, 0)
    with torch.no_grad():
        for weight in engine.model.parameters():
            weight.copy_(weight.main_grad)
    metrics = StepMetrics(step=1, learning_rate=0.0, seconds=1.0, **result._asdict())
    ref = checkpoints.save(
        engine, TrainState(step=1, tokens=1, data=DataPosition(packs=len(packs)), metrics=(metrics,))
    )
    return Computed(logits, ref.uri)


@torch.no_grad()
def _logits(engine: MegatronEngine, packs: list[Pack], image: int) -> list[np.ndarray]:
    batches = [to_device(pack, image, torch.device("cpu"), None) for pack in packs]
    collected = get_forward_backward_func()(
        forward_step_func=_forward,
        data_iterator=iter(batches),
        model=engine.model,
        num_microbatches=len(packs),
        seq_length=1,
        micro_batch_size=1,
        forward_only=True,
        collect_non_loss_data=True,
    )
    return [logits_SV.numpy() for logits_SV in collected]


def _forward(batches: Iterator[MicroBatch], model: Any) -> tuple[torch.Tensor, Any]:
    batch = next(batches)
    logits_SV = model.logits(batch, torch.arange(len(batch.tokens_S)))
    return logits_SV, _as_is


def _as_is(output: torch.Tensor, non_loss_data: bool = False) -> torch.Tensor:
    return output
