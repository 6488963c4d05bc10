"""InternVL: vision encoder and projector on the first pipeline stage, the language model over all of them.

Shapes: S tokens of a pack, K supervised tokens, N tiles, T visual tokens, H language width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.enums import ModelType
from megatron.core.tensor_parallel import scatter_to_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from torch.utils.checkpoint import checkpoint

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.tensors import MODULES
from internvl_trainer.model.attention import TORCH, Backends
from internvl_trainer.model.batch import MicroBatch
from internvl_trainer.model.config import ModelConfigs
from internvl_trainer.model.droppath import DropPathPlace
from internvl_trainer.model.language import LogitsAt, SupervisedLoss, build_language_model
from internvl_trainer.model.loss import PackLoss
from internvl_trainer.model.pixels import normalise_tiles
from internvl_trainer.model.projector import Projector
from internvl_trainer.model.rotary import RotaryAngles
from internvl_trainer.model.vision import InternViT


class InternVLModel(MegatronModule):
    """This pipeline stage's part of the model."""

    # megatron's schedules and gradient finalisation read these from the model they are given.
    model_type = ModelType.encoder_or_decoder
    share_embeddings_and_output_weights = False

    def __init__(
        self,
        geometry: ModelGeometry,
        configs: ModelConfigs,
        drop_path: float = 0.0,
        attention: Backends = TORCH,
    ):
        super().__init__(configs.language)
        self.geometry = geometry
        self.from_pixels = configs.from_pixels
        self.pre_process = parallel_state.is_pipeline_first_stage()
        self.post_process = parallel_state.is_pipeline_last_stage()
        self.tp_group = parallel_state.get_tensor_model_parallel_group()
        if self.pre_process:
            self.vision_model = InternViT(configs.vision, geometry.vision, drop_path, attention)
            self.projector = Projector(configs.projector, geometry, self.tp_group)
        self.angles = RotaryAngles(
            geometry.language.head_dim, geometry.language.rope_theta, torch.cuda.current_device()
        )
        self.language_model = build_language_model(
            configs.language,
            geometry.language,
            first_stage=self.pre_process,
            last_stage=self.post_process,
            attention=attention,
        )

    def part(self, component: Component) -> torch.nn.Module | None:
        """The module of one component, None where this pipeline stage has none of it."""
        return getattr(self, MODULES[component], None)

    def freeze_all_but(self, trainable: tuple[Component, ...]) -> None:
        """Switch gradients on for exactly these components."""
        for component in Component:
            part = self.part(component)
            if part is not None:
                part.requires_grad_(component in trainable)

    def sum_gradients(self) -> None:
        """Add up gradients that tensor-parallel ranks hold in part: once per step, after the data-parallel sum."""
        if self.pre_process:
            self.vision_model.sum_gradients()

    def set_input_tensor(self, input_tensor: list[torch.Tensor | None]) -> None:
        """What the previous pipeline stage sent, by megatron's schedule; [None] on the first stage."""
        self.language_model.set_input_tensor(input_tensor[0])

    def forward(self, batch: MicroBatch, visual_TH: torch.Tensor | None = None) -> torch.Tensor | PackLoss:
        """Hidden states [S, 1, H] for the next stage, or, on the last stage, the loss of the supervised tokens.

        The loss is weighted by `batch.weights_K * batch.loss_scale`.

        Args:
            batch: one pack.
            visual_TH: its visual tokens where they are known already; else they are made of its tiles.
        """
        loss = SupervisedLoss(
            self.geometry.language.vocab_size,
            batch.supervised_K,
            batch.targets_K,
            batch.weights_K * batch.loss_scale,
        )
        return self._run_language_model(batch, visual_TH, loss)

    def logits(
        self, batch: MicroBatch, positions_K: torch.Tensor, visual_TH: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [K, vocabulary] in float32 at some positions of a pack; for a single pipeline stage."""
        logits_KV: torch.Tensor = self._run_language_model(
            batch, visual_TH, LogitsAt(self.geometry.language.vocab_size, positions_K)
        )
        return logits_KV

    def visual_tokens(self, tiles_NPPC: torch.Tensor | None, place: DropPathPlace | None = None) -> torch.Tensor:
        """Projected visual tokens [T, H] of uint8 tiles in order; of one blank tile where there is none."""
        if tiles_NPPC is None or not len(tiles_NPPC):
            side = self.geometry.vision.image_size
            tiles_NPPC = torch.zeros(1, side, side, 3, dtype=torch.uint8, device=self.vision_model.position.device)
        trained = any(parameter.requires_grad for parameter in self.vision_model.parameters())
        if self.from_pixels and trained and torch.is_grad_enabled():
            # The projector is inside, as it would keep the encoder's output. Nothing in it draws random numbers.
            visual_TH: torch.Tensor = checkpoint(
                self._see, tiles_NPPC, place, trained, use_reentrant=False, preserve_rng_state=False
            )
            return visual_TH
        return self._see(tiles_NPPC, place, trained)

    def _see(self, tiles_NPPC: torch.Tensor, place: DropPathPlace | None, trained: bool) -> torch.Tensor:
        """Vision encoder and projector."""
        pixels_NCPP = normalise_tiles(tiles_NPPC, self.config.params_dtype)
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            # Drop path is a regulariser of a trained encoder; a frozen one is a fixed function.
            grid_NGGH = self.vision_model.grid_features(pixels_NCPP, place if trained else None)
        return self.projector(grid_NGGH)

    def sharded_model_state(self) -> dict[str, Any]:
        """Local name -> sharded tensor; keys begin `vision_model.`, `projector.` or `language_model.`."""
        # Linear layers keep an always empty entry for Transformer Engine's sake; it is no weight.
        return {name: value for name, value in self.sharded_state_dict().items() if not name.endswith("_extra_state")}

    def load_model_state(self, state: Mapping[str, Any]) -> None:
        """Take weights, possibly of some components only, under the names of `sharded_model_state()`.

        Raises:
            KeyError: the state names a tensor that this model does not have.
        """
        problems = self.load_state_dict(dict(state), strict=False)
        if problems.unexpected_keys:
            raise KeyError(f"the model has no tensor {', '.join(problems.unexpected_keys)}")

    def _run_language_model(
        self, batch: MicroBatch, visual_TH: torch.Tensor | None, head: SupervisedLoss | LogitsAt
    ) -> Any:
        if self.config.sequence_parallel:
            batch = batch.padded(self.tp_group.size())
        tokens_1S = batch.tokens_S[None]
        return self.language_model(
            tokens_1S,
            position_ids=None,
            attention_mask=None,
            decoder_input=self._embed(tokens_1S, batch, visual_TH) if self.pre_process else None,
            packed_seq_params=self.angles.of(batch.packed, len(batch.tokens_S)),
            output_processor=head,
        )

    def _embed(self, tokens_1S: torch.Tensor, batch: MicroBatch, visual_TH: torch.Tensor | None) -> torch.Tensor:
        """Token embeddings [S, 1, H] with visual tokens in place of the `<IMG_CONTEXT>` placeholders.

        Under sequence parallelism each rank gets the whole, so that visual tokens find their places, and keeps its
        part: [S / ranks, 1, H].
        """
        embedded_S1H = self.language_model.embedding(input_ids=tokens_1S, position_ids=None)
        if visual_TH is None:
            visual_TH = self.visual_tokens(batch.tiles_NPPC, batch.place)
        # A pack without images has run a blank tile: taking its first zero tokens keeps vision encoder and projector
        # in the graph, with gradients that are exactly zero, so that all ranks and all packs do the same collectives.
        visual_TH = visual_TH[: batch.image_positions.numel()]
        merged_S1H = embedded_S1H.index_copy(0, batch.image_positions, visual_TH[:, None].to(embedded_S1H.dtype))
        if not self.config.sequence_parallel:
            return merged_S1H
        return scatter_to_sequence_parallel_region(merged_S1H, group=self.tp_group)
