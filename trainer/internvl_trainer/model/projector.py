"""Pixel unshuffle and the MLP that carries visual features into the language model's width.

Shapes: N tiles, H x W patch grid, C channels, T visual tokens per tile, D language width.
"""

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.model.pixels import pixel_unshuffle


class Projector(MegatronModule):
    """LayerNorm -> Linear -> GELU (exact) -> Linear, from unshuffled ViT features to language embeddings.

    The first Linear is split by columns and the second by rows over the tensor-parallel group.
    """

    def __init__(self, config: TransformerConfig, geometry: ModelGeometry, tp_group: torch.distributed.ProcessGroup):
        super().__init__(config)
        self.tp_group = tp_group
        self.ratio = geometry.downsample_ratio
        width = geometry.language.hidden
        self.norm = torch.nn.LayerNorm(
            geometry.projector_input,
            eps=geometry.projector_norm_eps,
            device=torch.cuda.current_device(),
            dtype=config.params_dtype,
        )
        shared = {"config": config, "init_method": config.init_method, "bias": True, "tp_group": tp_group}
        self.linear_in = ColumnParallelLinear(geometry.projector_input, width, gather_output=False, **shared)
        self.linear_out = RowParallelLinear(width, width, input_is_parallel=True, skip_bias_add=False, **shared)

    def forward(self, x_NHWC: torch.Tensor) -> torch.Tensor:
        """Visual tokens of all tiles, in tile order and row-major inside a tile.

        Args:
            x_NHWC: ViT output without class token, as a grid, in the parameters' dtype.

        Returns:
            [N*T, D], T = H*W*ratio^2.
        """
        x_NHWC = pixel_unshuffle(x_NHWC, self.ratio)
        hidden_TP, _ = self.linear_in(self.norm(x_NHWC.flatten(0, 2)))
        out_TD, _ = self.linear_out(torch.nn.functional.gelu(hidden_TP))
        return out_TD
