"""A model of real ShardedTensors, small enough to see through: every value is known from its global place.

Shape suffixes: L layers, H hidden, F rows that tensor parallelism splits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor

ROWS, HIDDEN, LAYERS = 8, 6, 4
DISTINCT = {
    "vision_model.patch.weight": 1,
    "vision_model.norm.weight": 2,
    "projector.weight": 3,
    "language_model.layers.weight": 4,
    "language_model.head.weight": 5,
}


@dataclass(frozen=True)
class Place:
    """Where one process stands in the grid; rank = (pipeline * data + d) * tensor + t."""

    tensor: int
    pipeline: int
    data: int
    tensor_rank: int
    pipeline_rank: int
    data_rank: int

    @classmethod
    def of(cls, rank: int, *, tensor: int = 1, pipeline: int = 1, data: int = 1) -> "Place":
        """The place of `rank`."""
        return cls(tensor, pipeline, data, rank % tensor, rank // (tensor * data), rank // tensor % data)


class ToyEngine:
    """ViT and projector on the first pipeline stage, decoder layers over all stages, the head on the last."""

    def __init__(self, place: Place, step: int) -> None:
        self.place = place
        self.optimizer_step = step
        self.weights = {name: self.expected(name, step) for name in self._names()}
        self.moments = {name: self.expected(name, step) / 2 for name in self._names()}

    def expected(self, name: str, step: int) -> torch.Tensor:
        """This process's part of a tensor as it is after `step` steps."""
        value = DISTINCT[name] * 1000.0 + step / 7
        place = self.place
        if name == "vision_model.norm.weight":
            return value + torch.arange(HIDDEN, dtype=torch.float32)
        if name == "language_model.layers.weight":
            whole_LFH = value + torch.arange(LAYERS * ROWS * HIDDEN, dtype=torch.float32).view(LAYERS, ROWS, HIDDEN)
            mine_LFH = whole_LFH.chunk(place.pipeline, 0)[place.pipeline_rank]
            return mine_LFH.chunk(place.tensor, 1)[place.tensor_rank].contiguous()
        whole_FH = value + torch.arange(ROWS * HIDDEN, dtype=torch.float32).view(ROWS, HIDDEN)
        return whole_FH.chunk(place.tensor, 0)[place.tensor_rank].contiguous()

    def holds(self, step: int) -> dict[str, bool]:
        """For each weight, and each moment under `optimizer.`, whether it is that of `step`."""
        found = {name: torch.equal(weight, self.expected(name, step)) for name, weight in self.weights.items()}
        for name, moment in self.moments.items():
            found["optimizer." + name] = torch.equal(moment, self.expected(name, step) / 2)
        return found

    def sharded_model_state(self) -> dict[str, Any]:
        """See `Checkpointable`."""
        return {key: part for name, weight in self.weights.items() for key, part in self._parts(name, name, weight)}

    def load_model_state(self, state: dict[str, Any]) -> None:
        """See `Checkpointable`."""
        own = {key: part.data for key, part in self.sharded_model_state().items()}
        for key, tensor in state.items():
            own[key].copy_(tensor)

    def sharded_optimizer_state(self) -> dict[str, Any]:
        """See `Checkpointable`."""
        moments = {
            key: part
            for name, moment in self.moments.items()
            for key, part in self._parts(name, f"optimizer.exp_avg.{name}", moment)
        }
        return {"moments": moments, "step": self.optimizer_step}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """See `Checkpointable`."""
        self.optimizer_step = state["step"]
        own = {key: part.data for key, part in self.sharded_optimizer_state()["moments"].items()}
        for key, tensor in state["moments"].items():
            own[key].copy_(tensor)

    def _names(self) -> list[str]:
        first, last = self.place.pipeline_rank == 0, self.place.pipeline_rank == self.place.pipeline - 1
        names = [name for name in DISTINCT if first and not name.startswith("language_model.")]
        return [*names, "language_model.layers.weight", *(["language_model.head.weight"] if last else [])]

    def _parts(self, name: str, key: str, local: torch.Tensor) -> list[tuple[str, ShardedTensor]]:
        place = self.place
        if name == "vision_model.norm.weight":
            replica = (place.tensor_rank, place.data_rank)
            return [(key, ShardedTensor.from_rank_offsets(key, local, replica_id=replica))]
        split = (place.tensor_rank, place.tensor)
        if name != "language_model.layers.weight":
            part = ShardedTensor.from_rank_offsets(key, local, (0, *split), replica_id=place.data_rank)
            return [(key, part)]
        first = place.pipeline_rank * len(local)
        return [
            (
                f"{key}.{first + index}",
                ShardedTensor.from_rank_offsets(
                    key, layer, (0, first + index, LAYERS), (1, *split), prepend_axis_num=1, replica_id=place.data_rank
                ),
            )
            for index, layer in enumerate(local)
        ]
