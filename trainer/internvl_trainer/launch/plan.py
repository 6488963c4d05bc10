"""What a node's launcher starts: pure data, from the operator's environment to torchrun's.

torchrun's contract is what torch.distributed and every library on top of it read; ours (contract/environment.py) is
what the operator sets on a pod.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from internvl_trainer.contract import environment
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.train import live


class LaunchPlanError(ValueError):
    """Arguments that no job can be started with."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CONFIG


@dataclass(frozen=True)
class LaunchPlan:
    """One node's share of a job.

    Attributes:
        config: the job config.
        nodes, node_rank: number of nodes, and this one's 0-based index.
        processes: workers on each node.
        master_addr, master_port: where worker 0 of node 0 offers the rendezvous store.
        scratch: node-local folder that workers may fill.
        grace_seconds: from SIGTERM to SIGKILL of this launcher, by whoever sends them.
        live: whether progress is to come as reports for a terminal (train/live.py), not as log lines.
    """

    config: Path
    nodes: int
    node_rank: int
    processes: int
    master_addr: str
    master_port: int
    scratch: Path
    grace_seconds: float
    live: bool = False

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.processes < 1:
            raise LaunchPlanError(f"{self.nodes} nodes x {self.processes} processes is no job; give at least 1 of each")
        if not 0 <= self.node_rank < self.nodes:
            raise LaunchPlanError(f"node rank {self.node_rank} is not in 0..{self.nodes - 1}")

    @property
    def world(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.processes

    @property
    def shutdown_seconds(self) -> float:
        """How long workers may take after SIGTERM: the grace period less a tenth, and at least two seconds less."""
        return max(1.0, self.grace_seconds - max(2.0, 0.1 * self.grace_seconds))

    def rank(self, local_rank: int) -> int:
        """A worker's rank in the job."""
        return self.node_rank * self.processes + local_rank

    def worker_environment(self, local_rank: int, inherited: Mapping[str, str]) -> dict[str, str]:
        """The whole environment of one worker: what the launcher inherited, and its place in the job."""
        place = {
            "RANK": self.rank(local_rank),
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": self.world,
            "LOCAL_WORLD_SIZE": self.processes,
            "GROUP_RANK": self.node_rank,
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": self.master_port,
            environment.SCRATCH: self.scratch,
        }
        wishes = {live.WANTED: "1"} if self.live else {}
        # Each worker drives one accelerator: threads of its CPU maths only get in the way of its peers. One hardware
        # queue makes CUDA start a layer's all-reduce before the matrix product that it is to overlap with.
        defaults = {"OMP_NUM_THREADS": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
        if _is_loopback(self.master_addr):
            defaults["GLOO_SOCKET_IFNAME"] = "lo"
        return defaults | dict(inherited) | wishes | {name: str(value) for name, value in place.items()}


def _is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
