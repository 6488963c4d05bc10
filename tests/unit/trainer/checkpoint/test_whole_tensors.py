"""Whole tensors into a torch_dist folder and out of it, without processes; grids are integration tests."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.checkpoint.errors import IncompleteTensorError, MissingTensorsError, ShardError
from internvl_trainer.checkpoint.torch_dist_reader import TorchDistReader
from internvl_trainer.checkpoint.torch_dist_writer import TorchDistWriter
from internvl_trainer.contract.boxes import Box
from internvl_trainer.contract.tensors import WholeTensor

pytestmark = pytest.mark.unit

EMBEDDING = "language_model.embedding.word_embeddings.weight"
STACK = "vision_model.encoder.layers.mlp.linear_fc1.weight"
NORM = "projector.norm.weight"


class Folder:
    """A torch_dist folder, and the files that a reader has asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.written: list[str] = []
        self.fetched: list[str] = []
        self.scratch = root / "scratch"
        self.store = root / "store"
        self.scratch.mkdir()
        self.store.mkdir()

    def write(self, tensors: dict[WholeTensor, torch.Tensor], shard_bytes: int = 1) -> None:
        """One file per tensor, unless more fit."""
        with TorchDistWriter(self.scratch, self._move, shard_bytes=shard_bytes) as writer:
            for whole, values in tensors.items():
                writer.add(whole, values)

    def reader(self) -> TorchDistReader:
        """With nothing but the index at hand."""
        shutil.copy(self.store / ".metadata", self.scratch)
        return TorchDistReader(self.scratch, self._fetch)

    def _move(self, path: Path) -> None:
        self.written.append(path.name)
        path.rename(self.store / path.name)

    def _fetch(self, name: str) -> None:
        self.fetched.append(name)
        shutil.copy(self.store / name, self.scratch)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def tensors() -> dict[WholeTensor, torch.Tensor]:
    layers = {WholeTensor(STACK, layer, (4, 3)): torch.randn(4, 3) for layer in (1, 0, 2)}
    return {WholeTensor(NORM, None, (5,)): torch.randn(5).bfloat16(), **layers}


def test_what_was_written_is_read_bit_for_bit(folder: Folder, tensors: dict[WholeTensor, torch.Tensor]) -> None:
    folder.write(tensors)
    for whole, values in folder.reader().stream(list(tensors)):
        assert values.dtype == tensors[whole].dtype
        assert torch.equal(values, tensors[whole])


def test_shards_are_bounded_and_index_files_come_last(folder: Folder, tensors: dict[WholeTensor, torch.Tensor]) -> None:
    folder.write(tensors)
    assert folder.written == [
        *("state__0_0.distcp", "projector__0_1.distcp"),
        *(f"vision__0_{number}.distcp" for number in range(2, 5)),
        *(".metadata", "metadata.json"),
    ]


def test_tensors_of_one_component_share_a_shard_that_has_room(
    folder: Folder, tensors: dict[WholeTensor, torch.Tensor]
) -> None:
    """Whoever takes the vision encoder takes nothing else along."""
    folder.write(tensors, shard_bytes=10**6)
    # The first one holds what is no tensor, which every loader reads.
    assert folder.written[:-2] == ["state__0_0.distcp", "projector__0_1.distcp", "vision__0_2.distcp"]


def test_a_shard_is_fetched_once_when_it_is_needed_and_then_let_go(folder: Folder) -> None:
    norm, *layers = wanted = [WholeTensor(NORM, None, (5,)), *(WholeTensor(STACK, n, (4, 3)) for n in range(3))]
    folder.write({whole: torch.randn(whole.shape) for whole in wanted})
    held = []
    for _ in folder.reader().stream([layers[2], norm, layers[2]]):
        held.append(sorted(path.name for path in folder.scratch.glob("*.distcp")))
    assert folder.fetched == ["vision__0_4.distcp", "projector__0_1.distcp"], (
        "the shards of other layers are never touched"
    )
    assert held == [["vision__0_4.distcp"], ["projector__0_1.distcp", "vision__0_4.distcp"], ["vision__0_4.distcp"]]
    assert not list(folder.scratch.glob("*.distcp"))


def test_a_view_does_not_drag_its_whole_storage_into_the_shard(folder: Folder) -> None:
    folder.write({WholeTensor(NORM, None, (5,)): torch.randn(1_000_000)[:5]})
    assert (folder.store / "projector__0_1.distcp").stat().st_size < 10_000


def test_rows_that_pad_the_vocabulary_are_left_out(folder: Folder) -> None:
    values = torch.randn(8, 2)
    folder.write({WholeTensor(EMBEDDING, None, (8, 2)): values})
    ((_, read),) = folder.reader().stream([WholeTensor(EMBEDDING, None, (6, 2))])
    assert torch.equal(read, values[:6])


def test_everything_that_is_missing_or_misshapen_is_named_before_any_fetch(
    folder: Folder, tensors: dict[WholeTensor, torch.Tensor]
) -> None:
    folder.write(tensors)
    wanted = [
        *(WholeTensor("projector.norm.bias", None, (5,)), WholeTensor(NORM, None, (4,))),
        *(WholeTensor(STACK, 3, (4, 3)), WholeTensor(STACK, 0, (4, 2))),
    ]
    with pytest.raises(MissingTensorsError) as caught:
        list(folder.reader().stream(wanted))
    told = str(caught.value)
    assert "projector.norm.bias is missing" in told
    assert f"{NORM} has shape [5], expected [4]" in told
    assert f"{STACK} has shape [3, 4, 3], so no layer 3" in told
    assert f"{STACK} has shape [4, 3], expected [4, 2]" in told
    assert folder.fetched == []


def test_a_broken_shard_is_named(folder: Folder, tensors: dict[WholeTensor, torch.Tensor]) -> None:
    folder.write(tensors)
    shard = folder.store / "projector__0_1.distcp"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ShardError, match=r"byte 0 of projector__0_1\.distcp"):
        list(folder.reader().stream([WholeTensor(NORM, None, (5,))]))


@pytest.mark.parametrize(
    ("second", "values", "said"),
    [
        (WholeTensor(STACK, 2, (4, 3)), torch.zeros(4, 3), r"has layers \[0, 2\]"),
        (WholeTensor(STACK, 0, (4, 3)), torch.zeros(4, 3), "written already"),
        (WholeTensor(STACK, 1, (4, 3)), torch.zeros(4, 2), r"float32 \[4, 2\]; it should have shape \[4, 3\]"),
        (WholeTensor(STACK, 1, (4, 3)), torch.zeros(4, 3).bfloat16(), r"other layers are torch.float32"),
    ],
)
def test_a_stack_that_is_no_stack_is_refused(
    folder: Folder, second: WholeTensor, values: torch.Tensor, said: str
) -> None:
    with pytest.raises(IncompleteTensorError, match=said):
        folder.write({WholeTensor(STACK, 0, (4, 3)): torch.zeros(4, 3), _Twin(*second): values})
    assert ".metadata" not in folder.written, "a folder without its index cannot be taken for a whole one"


class _Twin(WholeTensor):
    """Equal to no other key of a dict."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


axis = st.tuples(st.integers(0, 6), st.integers(1, 4))


@given(st.integers(1, 3).flatmap(lambda n: st.tuples(*[st.lists(axis, min_size=n, max_size=n)] * 2)))
def test_boxes_have_in_common_what_their_elements_have(
    axes: tuple[list[tuple[int, int]], list[tuple[int, int]]],
) -> None:
    first, second = (Box(*map(tuple, zip(*each, strict=True))) for each in axes)
    marked = torch.zeros([10] * len(axes[0]), dtype=torch.int)
    for box in (first, second):
        marked[box.within(Box((0,) * marked.dim(), tuple(marked.shape)))] += 1
    both = int((marked == 2).sum())
    assert first.meets(second) == bool(both)
    if both:
        common = first.common(second)
        assert common.volume == both
        assert (marked[common.within(Box((0,) * marked.dim(), tuple(marked.shape)))] == 2).all()
