"""From the operator's environment to torchrun's."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from internvl_trainer.contract import environment
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.launch import __main__ as command
from internvl_trainer.launch.plan import LaunchPlan, LaunchPlanError
from internvl_trainer.train import live

pytestmark = pytest.mark.unit


def plan(**fields: Any) -> LaunchPlan:
    usual = {
        "config": Path("/etc/internvl/job.json"), "nodes": 2, "node_rank": 1, "processes": 4,
        "master_addr": "tiny-worker-0.default", "master_port": 23456, "scratch": Path("/scratch"), "grace_seconds": 120,
    }  # fmt: skip
    return LaunchPlan(**(usual | fields))


def test_each_worker_gets_torchruns_contract() -> None:
    told = plan().worker_environment(2, {"PATH": "/bin"})
    assert {name: told[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")} == {
        "RANK": "6", "LOCAL_RANK": "2", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
    }  # fmt: skip
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("tiny-worker-0.default", "23456")
    assert told[environment.SCRATCH] == "/scratch"
    assert told["PATH"] == "/bin"


def test_workers_report_to_a_terminal_only_where_there_is_one() -> None:
    assert live.WANTED not in plan().worker_environment(0, {})
    assert live.WANTED in plan(live=True).worker_environment(0, {})


def test_threads_are_limited_unless_somebody_chose_otherwise() -> None:
    assert plan().worker_environment(0, {})["OMP_NUM_THREADS"] == "1"
    assert plan().worker_environment(0, {"OMP_NUM_THREADS": "8"})["OMP_NUM_THREADS"] == "8"


def test_on_one_machine_gloo_is_told_to_use_the_loopback_device() -> None:
    assert plan(master_addr="127.0.0.1").worker_environment(0, {})["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in plan().worker_environment(0, {})


@pytest.mark.parametrize(("grace", "left"), [(120, 108), (30, 27), (10, 8), (2, 1)])
def test_workers_are_ended_before_the_pod_is(grace: float, left: float) -> None:
    assert plan(grace_seconds=grace).shutdown_seconds == pytest.approx(left)


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"processes": 0}, {"node_rank": 2}, {"node_rank": -1}])
def test_what_makes_no_job_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(LaunchPlanError):
        plan(**wrong)


def test_the_command_reads_the_pods_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[LaunchPlan] = []
    monkeypatch.setattr(command, "launch", lambda plan, output: seen.append(plan) or 7)
    pod = {
        environment.NODES: "4", environment.NODE_RANK: "3", environment.PROCESSES_PER_NODE: "8",
        environment.MASTER_ADDR: "a8-0.ns", environment.MASTER_PORT: "23456", environment.SCRATCH: "/scratch",
        environment.GRACE_SECONDS: "120",
    }  # fmt: skip
    result = CliRunner().invoke(command.main, ["--config", "/etc/internvl/job.json"], env=pod)
    assert result.exit_code == 7
    assert seen == [plan(nodes=4, node_rank=3, processes=8, master_addr="a8-0.ns")]


def test_the_command_calls_a_wrong_place_an_invalid_config() -> None:
    result = CliRunner().invoke(command.main, ["--config", "job.json", "--nodes", "2", "--node-rank", "5"])
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert "node rank 5 is not in 0..1" in result.output
