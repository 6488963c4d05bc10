"""A store that misbehaves: nothing wrong or partial is ever loaded, and nothing that was committed is lost.

`make test` plays a sample, `make soak` (INTERNVL_WEATHER) five hundred runs and more.
"""

import os
from collections import Counter
from itertools import batched

import pytest

from hack.cluster.object_store import ObjectStore as S3Server
from tests.integration.checkpoint import bad_weather
from tests.integration.checkpoint.bad_weather import Outcome
from tests.integration.trainer.grid import on_ranks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

RUNS = int(os.environ.get("INTERNVL_WEATHER", "24"))
FIRST = int(os.environ.get("INTERNVL_WEATHER_FIRST", "1"))
PROCESSES = 4
"""That play at once: most of the time they wait, as patient clients do."""

RUNS_OF_A_PROCESS = 3
"""What they take stays well within a case's limit of time, on a busy machine too."""


def test_nothing_wrong_is_loaded_and_nothing_committed_is_lost(s3_server: S3Server) -> None:
    outcomes: list[Outcome] = []
    for seeds in batched(range(FIRST, FIRST + RUNS), PROCESSES * RUNS_OF_A_PROCESS):
        outcomes += [each for share in on_ranks(PROCESSES, _share, s3_server, seeds) for each in share]
        print(f"runs up to {seeds[-1]}: {sum(bool(each.wrong) for each in outcomes)} wrong", flush=True)  # noqa: T201
    faults = Counter[str]()
    for outcome in outcomes:
        faults.update(outcome.faults)
    committed = sum(len(outcome.committed) for outcome in outcomes)
    raised = Counter(text.split(": ")[1] for outcome in outcomes for text in outcome.raised)
    print(f"{len(outcomes)} runs, {committed} checkpoints, faults {dict(faults)}, ended early by {dict(raised)}")  # noqa: T201

    assert {outcome.seed: outcome.wrong for outcome in outcomes if outcome.wrong} == {}
    assert len(outcomes) == RUNS
    assert committed > RUNS * 3, "most saves come through: else nothing has been shown"
    if RUNS >= 24:
        assert len(faults) == len(bad_weather.RATES), f"every kind of fault has happened, but {sorted(faults)}"


def _share(server: S3Server, seeds: tuple[int, ...]) -> list[Outcome]:
    """One process's share of the runs; the processes know nothing of each other."""
    rank = int(os.environ["RANK"])
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}
    return bad_weather.play(server, seeds[rank::PROCESSES])
