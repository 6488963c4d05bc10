"""Who trains: our engine on packs, and a plain `transformers` loop on the same samples, unpacked.

Shapes: B samples of a batch, S tokens (padded in a batch), N tiles, side px.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from bench.workload import IGNORED, IMAGE_TOKEN, Sample, unpacked
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import (
    CheckpointConfig,
    DataConfig,
    JobConfig,
    OptimizationConfig,
    RecomputeConfig,
    StorageConfig,
)
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.convert.write_config import documents
from internvl_trainer.data.pack import Pack
from internvl_trainer.engine.megatron import DTYPES, MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.model.pixels import normalise_tiles

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RATE = 1e-5


class Contender(Protocol):
    """Something that can train one step."""

    name: str

    def step(self, packs: Sequence[Pack], number: int) -> float:
        """One optimizer step on these packs; the loss. The device may still be busy afterwards."""
        ...


class Ours:
    """MegatronEngine on one device, packs as they are."""

    name = "internvl-trainer"

    def __init__(self, job: JobConfig, place: Place) -> None:
        self._engine = MegatronEngine(job, place, image_token=IMAGE_TOKEN)

    def step(self, packs: Sequence[Pack], number: int) -> float:
        """See `Contender.step`; the loss is weighted by square averaging."""
        return self._engine.train_step(packs, RATE, number).loss


class Transformers:
    """`InternVLForConditionalGeneration` as its users train it: padded batches, AdamW, gradient checkpointing.

    The weights are in the training dtype and so is AdamW's state, without a float32 copy: faster and smaller than
    ours, and less exact. Attention is torch's scaled-dot-product attention, the library's default.
    """

    def __init__(
        self, model: ModelGeometry, trainable: Sequence[Component], precision: str, *, recompute: bool, batch: int
    ) -> None:
        self.name = f"transformers, batch {batch}"
        self._batch = batch
        self._dtype = DTYPES[precision]
        self._tokens_per_tile = model.tokens_per_tile
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with self._device:
            self._model = transformers_model(model, self._dtype)
        self._model.train()
        freeze_all_but(self._model, trainable)
        if recompute:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.05, fused=True)

    def step(self, packs: Sequence[Pack], number: int) -> float:
        """See `Contender.step`; the loss is the mean over supervised tokens."""
        samples = [sample for pack in packs for sample in unpacked(pack, self._tokens_per_tile)]
        supervised = sum(int((sample.labels_s != IGNORED).sum()) for sample in samples)
        total = torch.zeros((), device=self._device)
        for first in range(0, len(samples), self._batch):
            inputs = self._inputs(samples[first : first + self._batch])
            loss = self._model(**inputs, use_cache=False, num_items_in_batch=supervised).loss
            if loss.requires_grad:  # a batch without images trains nothing where only the vision side is trainable
                loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total.item()

    def _inputs(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        longest = max(len(sample.tokens_s) for sample in samples)
        tokens_BS = torch.zeros(len(samples), longest, dtype=torch.int64)
        labels_BS = torch.full_like(tokens_BS, IGNORED)
        mask_BS = torch.zeros_like(tokens_BS)
        for row, sample in enumerate(samples):
            end = len(sample.tokens_s)
            tokens_BS[row, :end] = torch.from_numpy(sample.tokens_s)
            labels_BS[row, :end] = torch.from_numpy(sample.labels_s)
            mask_BS[row, :end] = 1
        inputs = {"input_ids": tokens_BS.to(self._device), "labels": labels_BS.to(self._device)}
        if len(samples) > 1:
            inputs["attention_mask"] = mask_BS.to(self._device)
        tiles_NPPC = torch.cat([torch.from_numpy(sample.tiles_NHWC) for sample in samples]).to(self._device)
        if len(tiles_NPPC):
            inputs["pixel_values"] = normalise_tiles(tiles_NPPC, self._dtype)
        return inputs


def transformers_model(model: ModelGeometry, dtype: torch.dtype) -> "PreTrainedModel":
    """The same network in `transformers`, with random weights on the default device."""
    from transformers import AutoModelForImageTextToText, InternVLConfig

    document = documents(model, Layout.TRANSFORMERS, image_token=IMAGE_TOKEN)["config.json"]
    made: PreTrainedModel = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
        InternVLConfig.from_dict(document), dtype=dtype
    )
    return made


def freeze_all_but(model: torch.nn.Module, trainable: Sequence[Component]) -> None:
    """Switch gradients on for exactly these components of a `transformers` InternVL."""
    inner = model.get_submodule("model")
    parts = {
        Component.VISION: [inner.get_submodule("vision_tower")],
        Component.PROJECTOR: [inner.get_submodule("multi_modal_projector")],
        Component.LANGUAGE: [inner.get_submodule("language_model"), model.get_submodule("lm_head")],
    }
    for component, modules in parts.items():
        for module in modules:
            module.requires_grad_(component in trainable)


def job_for(
    model: ModelGeometry,
    trainable: tuple[Component, ...],
    *,
    precision: str,
    recompute: RecomputeConfig,
    pack_tokens: int,
    pack_tiles: int,
    packs_per_step: int,
    steps: int,
) -> JobConfig:
    """A job of one process; data and storage are named and never read."""
    return JobConfig(
        run=RunIdentity(uid="bench", namespace="bench", name="bench"),
        stage="bench",
        attempt=1,
        model=model,
        layout=ParallelLayout(),
        recompute=recompute,
        trainable=trainable,
        data=DataConfig(meta="file:///none", tokenizer="file:///none", pack_tokens=pack_tokens, pack_tiles=pack_tiles),
        optimization=OptimizationConfig.model_validate(
            {"steps": steps, "peak_lr": RATE, "global_batch": packs_per_step, "precision": precision}
        ),
        checkpoint=CheckpointConfig(every_steps=steps),
        storage=StorageConfig(uri="file:///none"),
    )
