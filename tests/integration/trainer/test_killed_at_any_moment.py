"""A stage whose processes are all killed at once, at any moment, and started again: TP2 x PP2 against a real S3 server.

`make test` plays a sample, `make soak` (INTERNVL_KILLS) fifty kills and more. A kill happens when a certain request
reaches the store, or a file appears in scratch, or just some time after a step.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil
import pytest

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.checkpoint.state import StepMetrics, from_lines
from internvl_trainer.contract import keys
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import Manifest
from internvl_trainer.storage import ObjectStore, open_store
from tests.integration.faults.plan import Call, Operation, ScriptedPlan
from tests.integration.faults.proxy import FaultProxy
from tests.integration.trainer.launching import Nodes, launched, run
from tests.integration.trainer.world import job, write_world

pytestmark = [pytest.mark.integration, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("INTERNVL_KILLS", "3"))
SEED = int(os.environ.get("INTERNVL_KILLS_FIRST", "1"))
STEPS = 8
EVERY = 2
GRID = {"tensor": 2, "pipeline": 2, "data": 1}
OTHER_GRIDS = (
    {"tensor": 1, "pipeline": 1, "data": 1},
    {"tensor": 1, "pipeline": 2, "data": 2},
    {"tensor": 2, "pipeline": 1, "data": 2},
)
MOMENTS = ("in a step", "while staging", "in an upload", "before the manifest", "as the manifest arrives")


@dataclass
class Killer:
    """Kills all processes of a job, once."""

    nodes: Nodes | None = None
    when: str = ""
    _done: threading.Event = field(default_factory=threading.Event)

    def kill(self, when: str) -> None:
        """SIGKILL to every process at once, as when a node loses its power."""
        if self.nodes is None or self._done.is_set():
            return
        self._done.set()
        self.when = when
        launcher = psutil.Process(self.nodes.launchers[0].pid)
        # The launcher first, or it would end the others in its own way.
        for process in [launcher, *launcher.children(recursive=True)]:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    @property
    def has_killed(self) -> bool:
        return self._done.is_set()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture(scope="module")
def store(s3_server: S3Server) -> ObjectStore:
    return open_store(endpoint_url=s3_server.endpoint)


def stage(world: Path, endpoint: str, name: str, *, attempt: int, layout: dict[str, int]) -> JobConfig:
    return job(
        world, "s3://checkpoints/killed", attempt=attempt, layout=layout,
        run={"uid": name, "namespace": "default", "name": "tiny"},
        storage={"uri": "s3://checkpoints/killed", "endpoint_url": endpoint},
        optimization={"steps": STEPS}, checkpoint={"every_steps": EVERY},
    )  # fmt: skip


def curve(config: JobConfig, store: ObjectStore) -> tuple[StepMetrics, ...]:
    """All steps of a finished stage, whichever attempt trained them."""
    uri = keys.manifest_uri(config.storage.uri, config.run.uid, config.stage, STEPS, config.attempt)
    assert Manifest.from_bytes(store.read(uri)).is_final
    return from_lines(store.read(keys.folder_of(uri) + keys.METRICS_NAME))


@pytest.fixture(scope="module")
def undisturbed(
    world: Path, s3_server: S3Server, store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StepMetrics, ...]:
    config = stage(world, s3_server.endpoint, "undisturbed", attempt=1, layout=GRID)
    codes, output = run(config, tmp_path_factory.mktemp("undisturbed"))
    assert codes == [0], output
    return curve(config, store)


def plan_of(moment: str, random: Random, killer: Killer) -> ScriptedPlan:
    """Watches the requests of a job, and kills it at one that belongs to the moment."""
    step = EVERY * random.randint(1, STEPS // EVERY)
    folder = f"/step-{step:08d}/"
    wanted = random.randint(1, 12)
    seen = 0

    def watch(call: Call) -> bool:
        nonlocal seen
        writes = call.operation in {Operation.PUT_OBJECT, Operation.UPLOAD_PART} and folder in call.key
        is_manifest = call.key.endswith(keys.MANIFEST_NAME)
        if moment == "in an upload" and writes and not is_manifest:
            seen += 1
            if seen == wanted:
                killer.kill(f"{moment}: object {seen} of step {step}")
        if moment == "before the manifest" and call.operation is Operation.LIST_OBJECTS_V2 and folder in call.key:
            seen += 1
            if seen == 1:
                killer.kill(f"{moment} of step {step}: all shards are up")
        if moment == "as the manifest arrives" and writes and is_manifest:
            killer.kill(f"{moment}, of step {step}")
        return False

    return ScriptedPlan([(watch, None, None)])


@pytest.fixture
def killer() -> Killer:
    return Killer()


def strike(moment: str, random: Random, killer: Killer, nodes: Nodes, scratch: Path) -> None:
    """Kill at a moment that no request tells of."""
    if moment == "in a step":
        step = random.randint(0, STEPS - 1)
        nodes.wait_for(f"step {step}/" if step else "attention:")
        time.sleep(random.random() * 0.3)
        killer.kill(f"{moment}: some time after step {step}")
    elif moment == "while staging":
        while nodes.launchers[0].poll() is None and not any(scratch.glob("checkpoint-save-*/*.distcp")):
            time.sleep(0.001)
        time.sleep(random.random() * 0.05)
        killer.kill(f"{moment}: a moment after the first shard file appeared")


@pytest.mark.parametrize("number", range(SEED, SEED + KILLS))
def test_after_a_kill_training_goes_on_to_the_same_end(
    number: int,
    world: Path,
    s3_server: S3Server,
    store: ObjectStore,
    undisturbed: tuple[StepMetrics, ...],
    killer: Killer,
    tmp_path: Path,
) -> None:
    random = Random(number)
    moment = MOMENTS[number % len(MOMENTS)]
    other = OTHER_GRIDS[number // 2 % len(OTHER_GRIDS)] if number % 2 else GRID
    with FaultProxy(s3_server.endpoint, plan_of(moment, random, killer)) as proxy:
        first = stage(world, proxy.endpoint, f"kill-{number}", attempt=1, layout=GRID)
        with launched(first, tmp_path / "first") as nodes:
            killer.nodes = nodes
            strike(moment, random, killer, nodes, tmp_path / "first" / "scratch-0")
            codes = nodes.exit_codes()
        assert killer.has_killed, f"{moment} did not come: {nodes.output}"
        assert codes == [-signal.SIGKILL]

    second = stage(world, s3_server.endpoint, f"kill-{number}", attempt=2, layout=other)
    codes, output = run(second, tmp_path / "second")

    assert codes == [0], output
    resumed = next((line for line in output.splitlines() if "resumed from" in line), "from the start")
    print(f"{killer.when}; went on {resumed.rpartition(' INFO ')[2]} as {other}")  # noqa: T201
    assert_same_curve(curve(second, store), undisturbed, exactly=other == GRID)


def assert_same_curve(found: tuple[StepMetrics, ...], expected: tuple[StepMetrics, ...], *, exactly: bool) -> None:
    same: Callable[[float], object] = (lambda loss: loss) if exactly else (lambda loss: pytest.approx(loss, rel=1e-5))
    assert [(each.step, each.loss) for each in found] == [(each.step, same(each.loss)) for each in expected]
    assert [(each.tokens, each.tiles) for each in found] == [(each.tokens, each.tiles) for each in expected]
