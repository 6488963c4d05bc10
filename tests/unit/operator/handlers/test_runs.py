"""When passes are made: at once for changes, soon for progress, after a pause for failures, and now and then anyway."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from internvl_operator.adapters.health import Heartbeat
from internvl_operator.adapters.kube_errors import UnavailableError
from internvl_operator.adapters.metrics import Metrics
from internvl_operator.config import ReconcileSettings
from internvl_operator.handlers.runs import Outcome, PassFailedError, RunKey, Runs

pytestmark = pytest.mark.unit

KEY = RunKey("team", "run")
OTHER = RunKey("team", "other")
SETTINGS = ReconcileSettings(
    fallback_seconds=50, idle_seconds=500, progress_seconds=0.15, settle_seconds=0.01,
    retry_initial_seconds=0.04, retry_max_seconds=0.08, pass_timeout_seconds=0.2,
)  # fmt: skip

Made = Callable[..., Runs]


class Passes:
    """Passes with scripted ends, and when each was made."""

    def __init__(self, *ends: Outcome | Exception) -> None:
        self.ends = list(ends)
        self.made: list[tuple[RunKey, float]] = []
        self._changed = asyncio.Event()

    async def __call__(self, key: RunKey) -> Outcome:
        self.made.append((key, asyncio.get_running_loop().time()))
        self._changed.set()
        end = self.ends.pop(0) if self.ends else Outcome()
        if isinstance(end, Exception):
            raise end
        return end

    async def reach(self, count: int) -> None:
        """Return once so many passes were made."""
        async with asyncio.timeout(5):
            while len(self.made) < count:
                self._changed.clear()
                await self._changed.wait()

    async def count_after(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return len(self.made)

    def gap(self, first: int) -> float:
        return self.made[first + 1][1] - self.made[first][1]


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    opened: list[Runs] = []

    def make(run_pass: Callable[[RunKey], Awaitable[Outcome]], settings: ReconcileSettings = SETTINGS) -> Runs:
        runs = Runs(run_pass, settings, Heartbeat(100), Metrics())
        opened.append(runs)
        return runs

    yield make
    for runs in opened:
        await runs.close()


async def test_a_burst_of_events_makes_one_pass(made: Made) -> None:
    passes = Passes()
    runs = made(passes)
    for _ in range(50):
        runs.wake(KEY)
    assert await passes.count_after(0.1) == 1


async def test_an_event_during_a_pass_makes_another_one(made: Made) -> None:
    passes = Passes()

    async def slow(key: RunKey) -> Outcome:
        outcome = await passes(key)
        if len(passes.made) == 1:
            runs.wake(KEY)
            await asyncio.sleep(0.05)
        return outcome

    runs = made(slow)
    runs.wake(KEY)
    await passes.reach(2)


async def test_without_events_the_fallback_makes_a_pass(made: Made) -> None:
    passes = Passes()
    runs = made(passes, SETTINGS.model_copy(update={"fallback_seconds": 0.03}))
    runs.wake(KEY)
    await passes.reach(3)


async def test_a_run_that_has_ended_is_left_in_peace(made: Made) -> None:
    passes = Passes(Outcome(idle=True))
    runs = made(passes, SETTINGS.model_copy(update={"fallback_seconds": 0.03}))
    runs.wake(KEY)
    assert await passes.count_after(0.15) == 1


async def test_a_pass_says_when_to_look_again(made: Made) -> None:
    passes = Passes(Outcome(after_seconds=0.03))
    runs = made(passes)
    runs.wake(KEY)
    await passes.reach(2)
    assert passes.gap(0) >= 0.03
    assert await passes.count_after(0.1) == 2


async def test_progress_alone_makes_few_passes(made: Made) -> None:
    passes = Passes()
    runs = made(passes)
    runs.wake(KEY)
    await passes.reach(1)
    for _ in range(20):
        await asyncio.sleep(0.01)
        runs.nudge(KEY)
    await passes.reach(2)
    assert passes.gap(0) >= SETTINGS.progress_seconds
    assert len(passes.made) <= 3


async def test_a_change_does_not_wait_for_progress(made: Made) -> None:
    passes = Passes()
    runs = made(passes, SETTINGS.model_copy(update={"progress_seconds": 30}))
    runs.wake(KEY)
    await passes.reach(1)
    runs.nudge(KEY)
    runs.wake(KEY)
    await passes.reach(2)


async def test_a_report_about_nobody_is_ignored(made: Made) -> None:
    passes = Passes()
    made(passes).nudge(KEY)
    assert await passes.count_after(0.05) == 0


@pytest.mark.parametrize(
    "failure",
    [UnavailableError("GET x", 503, "", "away"), PassFailedError("odd"), TimeoutError(), ZeroDivisionError()],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_failed_pass_is_made_again_after_a_growing_pause(made: Made, failure: Exception) -> None:
    passes = Passes(failure, failure, failure)
    runs = made(passes)
    runs.wake(KEY)
    await passes.reach(4)
    assert passes.gap(0) >= 0.03
    assert passes.gap(1) >= 0.06
    assert await passes.count_after(0.2) == 4


async def test_a_pass_that_hangs_is_given_up(made: Made) -> None:
    made_at_all = asyncio.Event()
    hung = 0

    async def hanging(key: RunKey) -> Outcome:
        nonlocal hung
        hung += 1
        if hung > 1:
            made_at_all.set()
            return Outcome()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    made(hanging).wake(KEY)
    await asyncio.wait_for(made_at_all.wait(), 5)


async def test_one_runs_fault_does_not_stop_another_run(made: Made) -> None:
    passes = Passes()

    async def faulty(key: RunKey) -> Outcome:
        if key == KEY:
            raise ZeroDivisionError
        return await passes(key)

    runs = made(faulty)
    runs.wake(KEY)
    runs.wake(OTHER)
    await passes.reach(1)


async def test_a_run_that_is_gone_is_forgotten_and_can_come_back(made: Made) -> None:
    passes = Passes(Outcome(gone=True))
    runs = made(passes)
    runs.wake(KEY)
    assert await passes.count_after(0.05) == 1
    runs.nudge(KEY)
    assert await passes.count_after(0.05) == 1
    runs.wake(KEY)
    await passes.reach(2)


async def test_a_run_that_waits_for_another_is_told_when_that_one_changes(made: Made) -> None:
    passes = Passes(Outcome(follows=frozenset({OTHER})))
    runs = made(passes)
    runs.wake(KEY)
    await passes.reach(1)
    await asyncio.sleep(0.01)
    runs.nudge_followers(OTHER)
    await passes.reach(2)
    runs.nudge_followers(RunKey("team", "nobody"))
    assert await passes.count_after(0.2) == 2


async def test_not_more_passes_at_once_than_allowed(made: Made) -> None:
    under_way, most = 0, 0

    async def counted(key: RunKey) -> Outcome:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        return Outcome(gone=True)

    runs = made(counted, SETTINGS.model_copy(update={"concurrent_passes": 3}))
    for number in range(20):
        runs.wake(RunKey("team", f"run-{number}"))
    await asyncio.sleep(0.2)
    assert most == 3
