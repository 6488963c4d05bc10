"""What training on a pack costs, as far as its shape decides."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.flops import PackLoad, forward_flops, model_passes


@dataclass(frozen=True)
class PackCost:
    """Cost of a pack as token * tokens + square * (sum of squared segment lengths) + tile * tiles.

    The unit is operations of a training step (`contract.flops`), in exact integers: a tie between two packs falls the
    same way on every machine.
    """

    token: int
    square: int
    tile: int

    @classmethod
    def of_model(cls, model: ModelGeometry, trainable: Collection[Component]) -> Self:
        """The cost of training these components of a model, every token of text taken as supervised.

        What is computed again to save memory is left out: it would let a setting of the hardware decide which rank
        takes which pack.
        """
        passes = model_passes(trainable)

        def operations(*, tokens: int = 0, squares: int = 0, tiles: int = 0, head_tokens: int = 0) -> int:
            return forward_flops(model, PackLoad(tokens, squares, tiles, head_tokens)).times(passes)

        return cls(
            token=operations(tokens=1, head_tokens=1),
            square=operations(squares=1),
            # A tile's tokens are counted with all tokens, though they never meet the vocabulary.
            tile=operations(tiles=1, head_tokens=-model.tokens_per_tile),
        )

    def of(self, lengths: Iterable[int], tiles: int) -> int:
        """The cost of a pack with segments of these lengths and so many tiles."""
        tokens = squares = 0
        for length in lengths:
            tokens += length
            squares += length * length
        return self.token * tokens + self.square * squares + self.tile * tiles
