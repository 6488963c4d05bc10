"""A run whose store misbehaves in a seeded way, and what is true of it afterwards. Played in a process of its own."""

import logging
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
import torch.distributed as dist

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.checkpoint import verify
from internvl_trainer.checkpoint.errors import CheckpointError
from internvl_trainer.contract import keys
from internvl_trainer.contract.job import CheckpointConfig
from internvl_trainer.storage import ObjectStore, StoreError
from tests.integration.checkpoint.stories import Setting, train_state
from tests.integration.checkpoint.toy import Place, ToyEngine
from tests.integration.faults.plan import Fault, FaultPlan
from tests.integration.faults.proxy import FaultProxy

ATTEMPTS = 3
STEPS_OF_AN_ATTEMPT = 2

RATES = {
    Fault.DROP_REQUEST: 0.02,
    Fault.DROP_ANSWER: 0.04,
    Fault.UNAVAILABLE: 0.02,
    Fault.INTERNAL: 0.01,
    Fault.SLOW: 0.01,
    Fault.DUPLICATE: 0.05,
    Fault.TRUNCATED_PART: 0.05,
    Fault.TRUNCATED_STORED: 0.05,
    Fault.PRECONDITION_FAILED: 0.1,
    Fault.CONFLICT: 0.1,
    Fault.STALE_LIST: 0.3,
    Fault.CORRUPT_READ: 0.15,
    Fault.TRUNCATED_READ: 0.05,
}
"""Of each operation that a fault fits: every run meets several, most come through."""


class Found(NamedTuple):
    """What a run's store holds, looked at without faults."""

    newest: int
    """Step of the newest manifest."""
    unsound: tuple[str, ...]
    """Committed checkpoints of which a byte is not as it was hashed."""


@dataclass
class Outcome:
    """How a seeded run went."""

    seed: int
    committed: list[int] = field(default_factory=list)
    """Steps that `save` has returned for."""
    raised: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What must never be."""
    faults: dict[str, int] = field(default_factory=dict)


def play(server: S3Server, seeds: Iterable[int]) -> list[Outcome]:
    """Play runs of one process each, one after the other. The process must be no other story's."""
    os.environ |= {**server.environment(), "LOCAL_RANK": "0", "GROUP_RANK": "0"}
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    # Alone, by a store in its own memory: no port that another process could have taken.
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return [_run(server, seed) for seed in seeds]
    finally:
        dist.destroy_process_group()


def _run(server: S3Server, seed: int) -> Outcome:
    outcome = Outcome(seed)
    # The faults' rates differ from run to run, so that some meet a storm of one kind.
    random = Random(seed)
    rates = {fault: rate * random.choice((0, 0.5, 1, 2)) for fault, rate in RATES.items()}
    plan = FaultPlan(seed, rates, limit=2)
    with (
        tempfile.TemporaryDirectory() as folder,
        FaultProxy(server.endpoint, plan, access_key=server.access_key, secret_key=server.secret_key) as proxy,
    ):
        fair = Setting(Path(folder), f"s3://checkpoints/weather-{seed}", server.endpoint)
        foul = replace(fair, endpoint=proxy.endpoint)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _attempt(foul, fair, attempt, outcome)
            except (StoreError, CheckpointError) as error:
                outcome.raised.append(f"attempt {attempt}: {type(error).__name__}: {error}")
        outcome.faults = {fault.value: count for fault, count in proxy.faults.items()}
        _judge(fair, outcome)
    return outcome


def _attempt(foul: Setting, fair: Setting, attempt: int, outcome: Outcome) -> None:
    """Resume, train some steps, save each; what is loaded is compared at once."""
    before = look(fair)
    patient = CheckpointConfig(every_steps=1, patience_seconds=10)
    with foul.checkpointer(attempt=attempt, checkpoint=patient) as checkpointer:
        engine = ToyEngine(Place.of(0), 0)
        state = checkpointer.resume(engine)
        step = state.step if state else 0
        if not all(engine.holds(step).values()):
            outcome.wrong.append(f"attempt {attempt} resumed step {step} with other values than were saved")
        if state is not None and state != train_state(step):
            outcome.wrong.append(f"attempt {attempt} resumed step {step} with another state")
        if step != before.newest:
            outcome.wrong.append(f"attempt {attempt} resumed step {step}, the newest was {before.newest}")
        for number in range(step + 1, step + 1 + STEPS_OF_AN_ATTEMPT):
            checkpointer.save(ToyEngine(Place.of(0), number), train_state(number))
            outcome.committed.append(number)


def _judge(fair: Setting, outcome: Outcome) -> None:
    """Afterwards, in fair weather: nothing that was committed is lost or damaged, and the newest can be resumed."""
    found = look(fair)
    outcome.wrong += found.unsound
    if outcome.committed and found.newest < max(outcome.committed):
        outcome.wrong.append(f"step {max(outcome.committed)} was committed, the newest now is {found.newest}")
    engine = ToyEngine(Place.of(0), 0)
    with fair.checkpointer(attempt=ATTEMPTS + 1) as checkpointer:
        state = checkpointer.resume(engine)
    step = state.step if state else 0
    if step != found.newest or not all(engine.holds(step).values()):
        outcome.wrong.append(f"in fair weather step {step} was resumed, the newest is {found.newest}")


def look(fair: Setting) -> Found:
    """Every manifest of the run, by a plain listing, and whether all that it names is there to the last byte."""
    store = fair.store()
    candidates = [info.uri for info in store.list(f"{fair.storage}/") if info.uri.endswith(f"/{keys.MANIFEST_NAME}")]
    steps = [key.step for uri in candidates if (key := keys.parse_manifest_key(uri))]
    unsound = [fault for uri in candidates if (fault := _fault(store, uri))]
    return Found(max(steps, default=0), tuple(unsound))


def _fault(store: ObjectStore, uri: str) -> str | None:
    verdict, _ = verify.judge(store, uri, verify.expected_by_key(uri))
    if verdict.manifest is not None:
        verdict = verify.read_all(store, uri, verdict)
    return None if verdict.passed else f"{uri}: {'; '.join(map(str, verdict.problems))}"
