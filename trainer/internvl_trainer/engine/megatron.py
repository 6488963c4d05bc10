"""The engine on megatron.core: tensor, pipeline and data parallel training of one InternVL model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import torch
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.pipeline_parallel import get_forward_backward_func

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.data.pack import Pack
from internvl_trainer.engine import diagnosis, optimizer_state
from internvl_trainer.engine.batch import share_tiles, to_device
from internvl_trainer.engine.capacity import check_capacity, settled_partition
from internvl_trainer.engine.denominator import loss_scales
from internvl_trainer.engine.errors import (
    LossSpikeError,
    NonFiniteLossError,
    NothingSupervisedError,
    PeerRejectedBatchError,
    lost_peers_named,
)
from internvl_trainer.engine.optimizer import build_optimizer, data_parallel
from internvl_trainer.engine.parallel import Place
from internvl_trainer.engine.placeholders import check_placeholders
from internvl_trainer.engine.protocol import ShardedStateDict, StepResult
from internvl_trainer.model import attention
from internvl_trainer.model.batch import MicroBatch
from internvl_trainer.model.config import model_configs
from internvl_trainer.model.droppath import DropPathPlace
from internvl_trainer.model.errors import VisualTokenMismatchError
from internvl_trainer.model.initialise import initialise
from internvl_trainer.model.internvl import InternVLModel
from internvl_trainer.model.loss import PackLoss

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class BatchCounts(NamedTuple):
    """What a global batch holds: tokens, tiles, and samples that are left out of it."""

    tokens: int
    tiles: int
    skipped: int


class Verdict(IntEnum):
    """What a rank thinks of a step whose gradients are there; the largest of all ranks counts."""

    TAKE = 0
    SPIKE = 1
    NOT_FINITE = 2


class MegatronEngine:
    """One process's share of the model, its gradients and its optimizer.

    Weights start random, from the run's seed; those of components that `job.init` names hold nothing until loaded.

    Args:
        job: geometry, layout, trainable components and optimizer settings.
        place: this process's place in the grid; process groups must have been started.
        image_token: id of `<IMG_CONTEXT>`.

    Attributes:
        attention: the back-ends that run.

    Raises:
        LayoutError: the model cannot be cut to the job's layout, or its pipeline cannot balance.
        AttentionUnavailableError: `job.attention` cannot run here.
        DeviceMemoryError: the job does not fit on its CUDA devices, by estimate.
    """

    def __init__(self, job: JobConfig, place: Place, *, image_token: int) -> None:
        self._place = place
        self._geometry = job.model
        self._seed = job.optimization.seed
        self._clip = job.optimization.clip_grad_norm
        self._denominator = job.optimization.loss_denominator
        self._image_token = image_token
        on_cuda = torch.cuda.is_available()
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
        dtype = DTYPES[job.optimization.precision]
        partition = settled_partition(job)
        configs = model_configs(job.model, job.layout, partition=partition, recompute=job.recompute, dtype=dtype)
        check_capacity(job, self._device)
        self.attention = attention.select(job.attention, job.model, self._device, dtype)
        self.model = InternVLModel(job.model, configs, job.optimization.drop_path, self.attention)
        self.model.train()
        self.model.freeze_all_but(job.trainable)
        initialise(self.model, self._seed, [component for component in Component if component not in job.init])
        self._parallel_model = data_parallel(self.model, job.partition.optimizer)
        self._optimizer = build_optimizer(job.optimization, dtype, self._parallel_model)
        configs.language.finalize_model_grads_func = _finish_gradients
        configs.language.grad_scale_func = self._optimizer.scale_loss

    def train_step(
        self, packs: Sequence[Pack], learning_rate: float, step: int, *, loss_limit: float | None = None
    ) -> StepResult:
        """See `Engine.train_step`."""
        with lost_peers_named(f"step {step}"):
            return self._train_step(packs, learning_rate, step, loss_limit)

    def sharded_model_state(self) -> ShardedStateDict:
        """See `Engine.sharded_model_state`."""
        return self.model.sharded_model_state()

    def load_model_state(self, state: Mapping[str, Any]) -> None:
        """See `Engine.load_model_state`."""
        self.model.load_model_state(state)
        self._optimizer.reload_model_params()

    def sharded_optimizer_state(self) -> ShardedStateDict:
        """See `Engine.sharded_optimizer_state`."""
        return optimizer_state.sharded_state(self._optimizer, self.sharded_model_state())

    def load_optimizer_state(self, state: ShardedStateDict) -> None:
        """See `Engine.load_optimizer_state`."""
        optimizer_state.load_state(self._optimizer, self.sharded_model_state(), state)

    def _train_step(
        self, packs: Sequence[Pack], learning_rate: float, step: int, loss_limit: float | None
    ) -> StepResult:
        scales, counts = self._agree_on_batch(packs, step)
        self._parallel_model.zero_grad_buffer()
        self._optimizer.zero_grad()
        losses = self._run(packs, scales, step)
        loss = self._sum_over_grid(losses)
        self._optimizer.prepare_grads()
        grad_norm = float(self._optimizer.get_grad_norm())
        verdict = self._agree_on_verdict(loss, grad_norm, loss_limit)
        if verdict is not Verdict.TAKE:
            shares = self._shares(packs, losses)
            if verdict is Verdict.SPIKE and loss_limit is not None:
                raise LossSpikeError(step, loss, loss_limit, shares)
            raise NonFiniteLossError(step, loss, grad_norm, shares, self._diagnose(packs, scales, step))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        parameters = self._optimizer.get_parameters()
        # Transformer Engine's and apex's kernels refuse an empty list, and a stage, or a replica, may train nothing.
        if self._clip > 0 and parameters:
            clip_grad_by_total_norm_fp32(parameters, self._clip, grad_norm)
        self._optimizer.step_with_ready_grads()
        return StepResult(loss, grad_norm, counts.tokens, counts.tiles, counts.skipped)

    def _run(
        self, packs: Sequence[Pack], scales: Sequence[float], step: int, *, forward_only: bool = False
    ) -> list[torch.Tensor]:
        """Forward and backward pass of all micro-batches; on the last stage, each one's summand of the loss."""
        losses: list[torch.Tensor] = get_forward_backward_func()(
            forward_step_func=_forward_step,
            data_iterator=self._micro_batches(packs, scales, step),
            model=self._parallel_model,
            num_microbatches=len(packs),
            seq_length=1,  # stages tell each other the true shapes
            micro_batch_size=1,
            forward_only=forward_only,
        )
        return losses

    def _agree_on_batch(self, packs: Sequence[Pack], step: int) -> tuple[tuple[float, ...], BatchCounts]:
        """Loss scale per micro-step, and what the global batch holds; all raise if one finds its packs unusable.

        Loss weights are summed over data parallelism and context parallelism, whose ranks would share a pack's tokens.
        """
        fault: VisualTokenMismatchError | None = None
        try:
            check_placeholders(packs, self._geometry, self._image_token)
        except VisualTokenMismatchError as error:
            fault = error
        mine = (
            sum(len(pack.tokens_S) for pack in packs),
            sum(pack.tile_count for pack in packs),
            sum(len(pack.masked) for pack in packs),
            float(fault is not None),
            *(float(pack.weights_S.sum(dtype="float64")) for pack in packs),
        )
        sums = torch.tensor(mine, dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(sums, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        tokens, tiles, skipped, faults, *weights = sums.tolist()
        if fault is not None:
            raise fault
        if faults:
            raise PeerRejectedBatchError(step)
        if sum(weights) <= 0:
            raise NothingSupervisedError(step, tuple(pack.index for pack in packs), int(skipped))
        return loss_scales(weights, self._denominator), BatchCounts(int(tokens), int(tiles), int(skipped))

    def _micro_batches(self, packs: Sequence[Pack], scales: Sequence[float], step: int) -> Iterator[MicroBatch]:
        """Packs as micro-batches, each moved to the device when its turn comes."""
        group = parallel_state.get_tensor_model_parallel_group()
        side = self._geometry.vision.image_size
        for number, (pack, scale) in enumerate(zip(packs, scales, strict=True)):
            position = number * self._place.data_size + self._place.data_rank
            place = DropPathPlace(self._seed, step, position)
            batch = to_device(pack, self._image_token, self._device, place, scale)
            if self._place.first_stage:
                tiles = share_tiles(batch.tiles_NPPC, pack.tile_count, side, group, self._device)
                batch = batch.with_tiles(tiles)
            yield batch

    def _sum_over_grid(self, losses: list[torch.Tensor]) -> float:
        """The global batch's loss, from the last pipeline stage to all ranks."""
        total = torch.zeros(1, dtype=torch.float64, device=self._device)
        if losses:
            total += torch.stack(losses).double().sum()
        torch.distributed.all_reduce(total, group=parallel_state.get_pipeline_model_parallel_group())
        torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        return total.item()

    def _agree_on_verdict(self, loss: float, grad_norm: float, loss_limit: float | None) -> Verdict:
        """What all ranks do with the step: the worst that any of them thinks of it."""
        verdict = Verdict.TAKE
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            verdict = Verdict.NOT_FINITE
        elif loss_limit is not None and loss > loss_limit:
            verdict = Verdict.SPIKE
        votes = torch.tensor(float(verdict), device=self._device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        return Verdict(int(votes.item()))

    def _shares(self, packs: Sequence[Pack], losses: Sequence[torch.Tensor]) -> dict[int, float]:
        """Each pack of the global batch, by its number, with its summand of the loss; the same on all ranks."""
        mine = {pack.index: loss.item() for pack, loss in zip(packs, losses, strict=False)}
        shares = {pack: share for rank in _gather(mine) for pack, share in rank.items()}
        return dict(sorted(shares.items()))

    def _diagnose(self, packs: Sequence[Pack], scales: Sequence[float], step: int) -> str | None:
        """Where on the whole grid the first value is that is not finite; the same on all ranks."""
        fault = diagnosis.first_fault(
            self.model,
            parallel_state.get_pipeline_model_parallel_rank(),
            [pack.index for pack in packs],
            partial(self._run, packs, scales, step, forward_only=True),
        )
        first = diagnosis.earliest(_gather(fault))
        return first and first.description


def _gather[T](mine: T) -> list[T]:
    """What each rank has, in rank order."""
    of_rank: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(of_rank, mine)
    return of_rank


def _forward_step(batches: Iterator[MicroBatch], model: torch.nn.Module) -> tuple[Any, Any]:
    """What megatron's schedules call per micro-batch: the stage's output, and how the last stage makes a loss of it."""
    return model(next(batches)), _summand


def _summand(loss: PackLoss) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """This micro-batch's summand of the loss; micro-batches and data-parallel ranks add up.

    The token count in the middle is megatron's own normaliser, which we leave unused.
    """
    return loss.total, torch.zeros((), dtype=torch.int, device=loss.total.device), loss.total.detach()


def _finish_gradients(model: list[Any], num_tokens: torch.Tensor | None = None, **options: Any) -> None:
    """Sum gradients over data-parallel ranks without megatron's division by tokens: the loss is normalised already."""
    finalize_model_grads(model, None, **options)
    for chunk in model:
        chunk.module.sum_gradients()
