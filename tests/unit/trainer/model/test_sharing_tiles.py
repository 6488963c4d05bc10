"""Which tiles each tensor-parallel rank gets, whether they divide evenly or not."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.model.tiles import TileShare

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Rank:
    """What a share asks of a process group."""

    number: int
    ranks: int

    def rank(self) -> int:
        return self.number

    def size(self) -> int:
        return self.ranks


def shares(tiles: int, ranks: int) -> list[TileShare]:
    return [TileShare(tiles, Rank(number, ranks)) for number in range(ranks)]


@given(tiles=st.integers(1, 60), ranks=st.integers(1, 16))
def test_blocks_are_equally_long_and_hold_each_tile_once_in_order(tiles: int, ranks: int) -> None:
    numbers = torch.arange(1, tiles + 1)
    blocks = [share.mine(numbers) for share in shares(tiles, ranks)]
    assert {len(block) for block in blocks} == {-(-tiles // ranks)}
    assert torch.equal(torch.cat(blocks)[:tiles], numbers)
    assert torch.cat(blocks)[tiles:].count_nonzero() == 0


def test_a_rank_without_tiles_works_on_blank_ones() -> None:
    pixels = torch.ones(2, 3, 4, 4)
    assert [int(share.mine(pixels).sum()) for share in shares(2, 4)] == [48, 48, 0, 0]
    assert shares(2, 4)[3].mine(pixels).shape == (1, 3, 4, 4)


def test_other_axes_can_be_cut_alike() -> None:
    scales_2N = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    first, last = (share.mine(scales_2N, axis=1) for share in shares(3, 2))
    assert first.tolist() == [[1, 2], [4, 5]]
    assert last.tolist() == [[3, 0], [6, 0]]


def test_a_rank_that_shares_with_nobody_sees_all_tiles() -> None:
    tiles = torch.arange(3)
    assert TileShare(3, None).mine(tiles) is tiles
    assert TileShare(3, None).gather(tiles) is tiles
