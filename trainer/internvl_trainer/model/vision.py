"""InternViT on megatron.core's transformer layers.

Shapes: N tiles of a pack, M of them on this rank, C = 3 colours, P x P patch, G x G patch grid, S = 1 + G*G positions
(class token first), H hidden.
Source: InternVL-2.5 report, table 1, and the published modelling code's behaviour.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlock, TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch.utils.checkpoint import checkpoint

from internvl_trainer.contract.catalog import VisionGeometry
from internvl_trainer.model.attention import TORCH, Backends, vision_attention
from internvl_trainer.model.droppath import DropPathPlace, branch_scales, layer_rates
from internvl_trainer.model.heads import PaddedSelfAttention
from internvl_trainer.model.norm import FullWidthRMSNorm, norm
from internvl_trainer.model.positions import resize_positions
from internvl_trainer.model.tiles import TileShare
from internvl_trainer.model.transfer import sent


class InternViTLayer(TransformerLayer):
    """Pre-norm block with layer scale: x += s * ls1 * attn(norm(x)); x += s * ls2 * mlp(norm(x)).

    Layer scale multiplies the branch after its projection's bias; s is drop path's factor per tile.
    """

    def __init__(
        self, config: TransformerConfig, submodules: TransformerLayerSubmodules, layer_scale: float, **place: Any
    ) -> None:
        super().__init__(config, submodules, **place)
        self.ls1 = self._layer_scale(layer_scale)
        self.ls2 = self._layer_scale(layer_scale)

    def _layer_scale(self, value: float) -> torch.nn.Parameter:
        shape = (self.config.hidden_size,)
        device, dtype = torch.cuda.current_device(), self.config.params_dtype
        return torch.nn.Parameter(torch.full(shape, value, device=device, dtype=dtype))

    def forward(self, x_SNH: torch.Tensor, scales_2N: torch.Tensor | None = None) -> torch.Tensor:
        """One block.

        Args:
            x_SNH: features of all tiles.
            scales_2N: drop path's factors for the two branches; None keeps both of every tile.
        """
        attention, bias = self.self_attention(self.input_layernorm(x_SNH), attention_mask=None)
        x_SNH = x_SNH + _scaled(attention + bias, self.ls1, None if scales_2N is None else scales_2N[0])
        hidden, bias = self.mlp(self.pre_mlp_layernorm(x_SNH))
        return x_SNH + _scaled(hidden + bias, self.ls2, None if scales_2N is None else scales_2N[1])


def _scaled(branch_SNH: torch.Tensor, layer_scale_H: torch.Tensor, scale_N: torch.Tensor | None) -> torch.Tensor:
    branch_SNH = branch_SNH * layer_scale_H
    return branch_SNH if scale_N is None else branch_SNH * scale_N[:, None]


def vision_layer_spec(
    geometry: VisionGeometry, attention: Backends, tp_group: torch.distributed.ProcessGroup
) -> ModuleSpec:
    """How one InternViT block is built: attention over the whole tile, exact GELU, full-width qk norm if asked for."""
    qk_norm = partial(FullWidthRMSNorm, tp_group=tp_group) if geometry.qk_norm else None
    self_attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear if geometry.qkv_bias else _column_parallel_without_bias,
        core_attention=vision_attention(attention),
        linear_proj=RowParallelLinear,
        q_layernorm=qk_norm,
        k_layernorm=qk_norm,
    )
    submodules = TransformerLayerSubmodules(
        input_layernorm=norm,
        self_attention=ModuleSpec(
            PaddedSelfAttention, {"attn_mask_type": AttnMaskType.no_mask, "heads": geometry.heads}, self_attention
        ),
        pre_mlp_layernorm=norm,
        mlp=partial(
            MLP.as_mlp_submodule,
            submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
        ),
    )
    return ModuleSpec(InternViTLayer, {"layer_scale": geometry.layer_scale_init}, submodules)


def _column_parallel_without_bias(*sizes: int, **options: Any) -> ColumnParallelLinear:
    """megatron gives q, k and v a bias wherever the other linear layers have one; InternViT-6B's have none."""
    return ColumnParallelLinear(*sizes, **options | {"bias": False})


class InternViTEncoder(TransformerBlock):
    """All blocks, on one pipeline stage; the last block's output goes out without a final norm."""

    def forward(self, x_SMH: torch.Tensor, rate: float, place: DropPathPlace | None, share: TileShare) -> torch.Tensor:
        """Run all blocks; drop path is on where `place` is given and `rate` is positive, and drawn for all tiles."""
        recompute = self.config.recompute_granularity == "full" and torch.is_grad_enabled()
        run = _run_again_in_backward if recompute else _run
        scales: Sequence[torch.Tensor | None] = [None] * len(self.layers)
        if place is not None and rate > 0:
            scales = self._drop_path(rate, place, share, x_SMH)
        for layer, scales_2M in zip(self.layers, scales, strict=True):
            x_SMH = run(layer, x_SMH, scales_2M)
        return x_SMH

    def _drop_path(
        self, rate: float, place: DropPathPlace, share: TileShare, like: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Drop path's factors [2, M] of each layer, sent to the device in one piece."""
        rates = layer_rates(rate, len(self.layers))
        drawn = [branch_scales(each, place, number, share.tiles) for number, each in enumerate(rates)]
        return share.mine(sent(torch.stack(drawn), like.device).to(like.dtype), axis=2).unbind()


def _run(layer: InternViTLayer, x_SNH: torch.Tensor, scales_2N: torch.Tensor | None) -> torch.Tensor:
    return layer(x_SNH, scales_2N)


def _run_again_in_backward(layer: InternViTLayer, x_SNH: torch.Tensor, scales_2N: torch.Tensor | None) -> torch.Tensor:
    """Keeps the layer's input only. Nothing in a layer draws random numbers, so no random state is kept with it."""
    return checkpoint(layer, x_SNH, scales_2N, use_reentrant=False, preserve_rng_state=False)


class InternViT(MegatronModule):
    """Patch embedding, class token, learned positions and the encoder.

    What the tensor-parallel ranks share follows from `config.tensor_model_parallel_size`: the weights of each layer
    where it is their number; the tiles where it is 1, each rank then having all weights. Values, gradients and
    checkpoints are the same either way. `sum_gradients` completes the gradients of the second way.
    """

    def __init__(
        self,
        config: TransformerConfig,
        geometry: VisionGeometry,
        drop_path: float = 0.0,
        attention: Backends = TORCH,
    ):
        super().__init__(config)
        self.geometry = geometry
        self.drop_path = drop_path
        groups = ProcessGroupCollection.use_mpu_process_groups()
        self.tile_group = None
        if config.tensor_model_parallel_size < groups.tp.size():
            self.tile_group, groups.tp = groups.tp, _group_of_this_rank()
        self.tp_group = groups.tp
        place = {"device": torch.cuda.current_device(), "dtype": config.params_dtype}
        hidden, patch, positions = geometry.hidden, geometry.patch_size, geometry.patches_per_side**2 + 1
        self.patch_weight = torch.nn.Parameter(torch.empty(hidden, 3, patch, patch, **place))
        self.patch_bias = torch.nn.Parameter(torch.empty(hidden, **place))
        self.class_token = torch.nn.Parameter(torch.empty(hidden, **place))
        self.position = torch.nn.Parameter(torch.empty(positions, hidden, **place))
        spec = vision_layer_spec(geometry, attention, groups.tp)
        blocks = TransformerBlockSubmodules(layer_specs=[spec] * geometry.layers)
        self.encoder = InternViTEncoder(config, blocks, post_layer_norm=False, pg_collection=groups)
        if self.tile_group is not None:
            for parameter in self.parameters():
                # megatron marks weights of its parallel layers whatever the group's size; these are replicas, which
                # the gradient norm counts once.
                parameter.tensor_model_parallel = False

    def embed(self, pixels_NCPP: torch.Tensor) -> torch.Tensor:
        """Patches, class token and positions -> [S, N, H]; tiles of another size get positions resized to theirs.

        A stride-P convolution is a matrix product over cut patches; as such its weight gradient is the same bits on
        every tensor-parallel rank, which keeps the replicas of this parameter together.
        """
        n, colours, side, _ = pixels_NCPP.shape
        patch = self.geometry.patch_size
        if side % patch:
            raise ValueError(f"tiles are {side} px wide; give tiles whose side is a multiple of the {patch} px patches")
        grid = side // patch
        position_SH = resize_positions(self.position, self.geometry.patches_per_side, grid)
        cut = pixels_NCPP.reshape(n, colours, grid, patch, grid, patch).permute(2, 4, 0, 1, 3, 5)
        patches_SNH = torch.nn.functional.linear(
            cut.reshape(grid * grid, n, colours * patch * patch), self.patch_weight.flatten(1), self.patch_bias
        )
        class_1NH = self.class_token.expand(1, n, -1)
        return torch.cat([class_1NH, patches_SNH]) + position_SH[:, None]

    def forward(self, pixels_NCPP: torch.Tensor, place: DropPathPlace | None = None) -> torch.Tensor:
        """Features of all positions.

        Args:
            pixels_NCPP: normalised tiles, in the parameters' dtype; the same on all tensor-parallel ranks.
            place: where in training this pass stands; None switches drop path off.

        Returns:
            [S, N, H], class token first.
        """
        share = TileShare(len(pixels_NCPP), self.tile_group)
        return share.gather(self.encoder(self.embed(share.mine(pixels_NCPP)), self.drop_path, place, share))

    def grid_features(self, pixels_NCPP: torch.Tensor, place: DropPathPlace | None = None) -> torch.Tensor:
        """Features of the patches alone, as a grid [N, G, G, H]."""
        features_SNH = self(pixels_NCPP, place)
        grid = pixels_NCPP.size(-1) // self.geometry.patch_size
        return features_SNH[1:].transpose(0, 1).unflatten(1, (grid, grid))

    def sum_gradients(self) -> None:
        """Where ranks share tiles: add up what each of them found for its own, once per step. Collective."""
        if self.tile_group is None:
            return
        gradients = [parameter.main_grad for parameter in self.parameters() if parameter.requires_grad]
        sums = [torch.distributed.all_reduce(each, group=self.tile_group, async_op=True) for each in gradients]
        for each in sums:
            each.wait()

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The same tensors whatever the ranks share; of ranks with all weights the first one writes them."""
        state: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        if self.tile_group is not None:
            for value in nested_values(state):
                section, _, data_rank = value.replica_id
                value.replica_id = (section, self.tile_group.rank(), data_rank)
        return state


def _group_of_this_rank() -> torch.distributed.ProcessGroup:
    """A process group of one: made without the other ranks, which may hold no vision encoder."""
    return torch.distributed.new_group([torch.distributed.get_rank()], use_local_synchronization=True)
