"""The processes of a job, and how they stay of one mind: a failure of one is an error on all, not a hang.

Nodes share no file system, so each node has one process that does its transfers: local rank 0.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from internvl_trainer.checkpoint.errors import CheckpointError, ScratchError
from internvl_trainer.checkpoint.scratch import PREFIX, Claim, claim
from internvl_trainer.storage import StoreError

TRANSFER_TIMEOUT = timedelta(hours=6)
"""How long processes wait for one that transfers objects. A dead one closes its connections and is noticed at once."""


class _Idle:
    """The outcome of a process that had nothing to do."""


@dataclass(frozen=True)
class _Failure:
    kind: type[CheckpointError] | type[StoreError]
    message: str


@dataclass(frozen=True)
class Peers:
    """This process's place in the job. All methods but the properties are collective.

    Only the errors that can be expected of stores, disks and checkpoints are exchanged. Anything else is a bug: it
    ends the process, and the launcher then ends its peers.
    """

    rank: int
    world: int
    local_rank: int
    node: int
    group: dist.ProcessGroup | None = field(default=None, repr=False)
    """What outcomes are exchanged in; None for one process alone, which has nobody to tell."""

    @classmethod
    def from_environment(cls) -> "Peers":
        """From the process group and torchrun's LOCAL_RANK and GROUP_RANK; one node where these are not set.

        Collective: it makes a process group, which lives as long as the default one, so call it once per job.
        """
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        # Training's own group gives up after minutes, and most processes wait here while one per node moves terabytes.
        # gloo: what is told are objects of the host, and on a GPU they would wait behind its kernels.
        group = dist.new_group(backend="gloo", timeout=TRANSFER_TIMEOUT) if world > 1 else None
        return cls(rank, world, local_rank, int(os.environ.get("GROUP_RANK", 0)), group)

    def twin(self) -> "Peers":
        """The same processes with a process group of their own, for another thread. Collective."""
        return Peers.from_environment()

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes manifests."""
        return self.rank == 0

    @property
    def leads_node(self) -> bool:
        """Whether this is the one process of its node that transfers objects."""
        return self.local_rank == 0

    def first[T](self, action: Callable[[], T]) -> T:
        """Run `action` on rank 0; its result, or its error, on all ranks."""
        return self._gather(action if self.is_first else None)[0]

    def each_node[T](self, action: Callable[[], T]) -> list[T]:
        """Run `action` once on each node; the nodes' results, or the error, on all ranks."""
        return self._gather(action if self.leads_node else None)

    def each[T](self, action: Callable[[], T]) -> T:
        """Run `action` on all ranks; this rank's own result, unless any rank failed."""
        result: list[T] = []
        # Results stay where they are: a state dict is too large to be told to everybody.
        self._gather(lambda: result.append(action()))
        return result[0]

    def all[T](self, value: T) -> list[T]:
        """The values that all processes gave, in rank order."""
        return self._gather(lambda: value)

    def on_node[T](self, value: T) -> list[T]:
        """The values that the processes of this node gave."""
        return [each for node, each in self._gather(lambda: (self.node, value)) if node == self.node]

    def to_first[T](self, value: T) -> list[T]:
        """The values that all processes gave, in rank order, on rank 0; nothing on the others."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.is_first else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values or []

    def claim(self, scratch: Path, purpose: str) -> Claim:
        """An empty folder of this node, the same for all its processes, that no other job uses.

        The node's number is part of its name, so nodes that do share a disk stay apart all the same.
        """
        token = self.first(lambda: secrets.token_hex(4))
        path = scratch / f"{PREFIX}{purpose}-{token}-node{self.node}"
        claims: list[Claim] = []
        self.each_node(lambda: claims.append(claim(path)))
        return claims[0] if claims else Claim(path)

    @contextmanager
    def node_folder(self, scratch: Path, purpose: str) -> Iterator[Path]:
        """Such a folder, removed at the end."""
        claimed = self.claim(scratch, purpose)
        try:
            yield claimed.path
            # Nobody removes what a process of the same node still reads.
            self.each(lambda: None)
        finally:
            claimed.release()

    def _gather[T](self, action: Callable[[], T] | None) -> list[T]:
        outcome: T | _Failure | type[_Idle] = _Idle
        cause: Exception | None = None
        if action is not None:
            try:
                outcome = action()
            except (CheckpointError, StoreError) as error:
                outcome, cause = _Failure(type(error), str(error)), error
            except OSError as error:
                outcome, cause = _Failure(ScratchError, f"{type(error).__name__}: {error}"), error
        outcomes: list[T | _Failure | type[_Idle]] = [outcome]
        if self.world > 1:
            outcomes = [_Idle] * self.world
            dist.all_gather_object(outcomes, outcome, group=self.group)
        for rank, other in enumerate(outcomes):
            if isinstance(other, _Failure):
                raise other.kind(other.message if rank == self.rank else f"rank {rank}: {other.message}") from cause
        return [other for other in outcomes if other is not _Idle]  # type: ignore[misc]
