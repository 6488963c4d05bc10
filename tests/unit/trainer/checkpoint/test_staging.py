"""Shard files that are filled again and again: what torch and megatron read in them is what was last put there."""

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import FileSystemReader

from internvl_trainer.checkpoint.blob import ALIGNMENT, blob_of
from internvl_trainer.checkpoint.errors import ShardError
from internvl_trainer.checkpoint.index import PlacedObject, index_files
from internvl_trainer.checkpoint.staging import Piece, Placed, Staging, lay_out

pytestmark = pytest.mark.unit

SHAPES = ((3, 5), (1, 7, 3), (), (0, 4), (1,))


def piece(
    key: str, shape: tuple[int, ...] = (3, 5), *, dtype: torch.dtype = torch.float32, component: str = "vision"
) -> Piece:
    return Piece(key, component, dtype, shape, (0,) * len(shape), shape)


def loaded(folder: Path, placed: Placed) -> torch.Tensor:
    content = (folder / placed.file).read_bytes()[placed.begin : placed.begin + placed.length]
    tensor: torch.Tensor = torch.load(io.BytesIO(content), weights_only=True)
    return tensor


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_an_archive_is_what_torch_writes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    blob, written = blob_of(dtype, shape), io.BytesIO()
    torch.save(torch.zeros(shape, dtype=dtype), written)
    assert blob.size == len(written.getvalue())
    assert len(blob.head) % ALIGNMENT == 0 or not blob.values


def test_what_is_filled_twice_reads_as_the_second(tmp_path: Path) -> None:
    pieces = [piece(f"t{number}", shape) for number, shape in enumerate(SHAPES)]
    placed = lay_out(pieces, rank=3)
    staging = Staging(tmp_path, placed)
    for _ in range(2):
        tensors = [torch.randn(each.shape) for each in pieces]
        size = staging.fill(tensors)
    assert size == sum(tensor.nbytes for tensor in tensors)
    assert all(torch.equal(loaded(tmp_path, place), tensor) for place, tensor in zip(placed, tensors, strict=True))
    staging.close()
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_no_contiguous_memory_is_saved_as_it_looks(tmp_path: Path) -> None:
    placed = lay_out([piece("t", (5, 3))], rank=0)
    staging, part = Staging(tmp_path, placed), torch.randn(3, 5).T
    staging.fill([part])
    assert torch.equal(loaded(tmp_path, placed[0]), part)
    staging.close()


def test_full_scratch_is_an_error_before_anything_is_copied(tmp_path: Path) -> None:
    """Else the kernel would kill the process in the middle of the copy, with SIGBUS and without a word."""
    (placed,) = lay_out([piece("t")], rank=0)
    with pytest.raises(OSError, match=r"No space left|File too large"):
        Staging(tmp_path, [placed._replace(length=2**50)])


@given(st.lists(st.tuples(st.sampled_from(["vision", "optimizer"]), st.integers(1, 400)), max_size=20))
def test_components_lie_apart_and_no_file_grows_beyond_the_limit_but_for_a_single_tensor(
    asked: list[tuple[str, int]],
) -> None:
    limit = 4000
    pieces = [piece(f"t{number}", (size,), component=owner) for number, (owner, size) in enumerate(asked)]
    placed = lay_out(pieces, rank=0, shard_bytes=limit)
    assert [each.piece for each in placed] == pieces
    by_file: dict[str, list[Placed]] = {}
    for each in placed:
        assert each.file.startswith(f"{each.piece.component}__0_")
        assert each.begin % ALIGNMENT == 0
        by_file.setdefault(each.file, []).append(each)
    for parts in by_file.values():
        ends = [0, *(each.begin + each.length for each in parts)]
        assert all(begin <= each.begin for begin, each in zip(ends, parts, strict=False)), "nothing overlaps"
        assert ends[-1] <= limit or len(parts) == 1


def test_the_index_tells_torch_where_everything_lies(tmp_path: Path) -> None:
    placed = lay_out([piece("vision_model.a"), piece("vision_model.b", (2,))], rank=0)
    for name, content in index_files(
        placed, [PlacedObject("common_state/shard_0_1", "state__0_0.distcp", 0, 9)]
    ).items():
        (tmp_path / name).write_bytes(content)
    metadata = FileSystemReader(tmp_path).read_metadata()
    assert set(metadata.state_dict_metadata) == {"vision_model.a", "vision_model.b", "common_state/shard_0_1"}
    assert {place.relative_path for place in metadata.storage_data.values()} == {
        "vision__0_0.distcp",
        "state__0_0.distcp",
    }


def test_ranks_that_disagree_about_a_tensor_are_told(tmp_path: Path) -> None:
    placed = [*lay_out([piece("a", (3,))], rank=0), *lay_out([piece("a", (4,))], rank=1)]
    with pytest.raises(ShardError, match="ranks disagree about tensor a"):
        index_files(placed, [])
