"""One task per InternVLTraining, which passes whenever something may have changed, and now and then anyway.

Everything that wakes a run (a watch event, a progress report, a requeue, a retry, the fallback) only says when its
next pass is due; what is to be done is decided in the pass, from what is there then. So a lost or doubled wake-up does
no harm, and there is nothing to persist: no finalizer, no annotation on any object.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from internvl_operator.adapters.health import Heartbeat
from internvl_operator.adapters.kube_errors import KubernetesError
from internvl_operator.adapters.metrics import Metrics
from internvl_operator.config import ReconcileSettings

logger = logging.getLogger(__name__)

_JITTER = 0.1


class RunKey(NamedTuple):
    """Where an InternVLTraining lies. Another one of the same name may follow it: the pass tells them apart by UID."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class PassFailedError(Exception):
    """A pass cannot be made: the message says what is wrong with the run's objects."""


class Outcome(NamedTuple):
    """How a pass ended, as far as the next one is concerned."""

    gone: bool = False
    """The run does not exist any more: nothing is left to follow."""
    idle: bool = False
    """The run has ended and needs no fallback passes to speak of."""
    after_seconds: float | None = None
    """The next pass is due by then, even if nothing wakes the run."""
    follows: frozenset[RunKey] = frozenset()
    """Other runs whose changes concern this one."""


Pass = Callable[[RunKey], Awaitable[Outcome]]


class _Alarm:
    """The moment at which the next pass is due; setting an earlier one wakes the sleeper."""

    def __init__(self) -> None:
        self._due = 0.0
        self._moved = asyncio.Event()

    def set(self, due: float) -> None:
        """Due then, whatever was set before."""
        self._due = due

    def advance(self, due: float) -> None:
        """Due then, unless it is due earlier."""
        if due < self._due:
            self._due = due
            self._moved.set()

    async def ring(self) -> None:
        """Return once the moment has come, and be silent from then on."""
        loop = asyncio.get_running_loop()
        while (remaining := self._due - loop.time()) > 0:
            self._moved.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), remaining)
        self._due = float("inf")


class Runs:
    """All runs that the operator follows."""

    def __init__(self, run_pass: Pass, settings: ReconcileSettings, heartbeat: Heartbeat, metrics: Metrics) -> None:
        """`run_pass` makes one pass; what it raises is logged, and the pass is made again after a growing pause."""
        self._run_pass = run_pass
        self._settings = settings
        self._heartbeat = heartbeat
        self._metrics = metrics
        self._slots = asyncio.Semaphore(settings.concurrent_passes)
        self._alarms: dict[RunKey, _Alarm] = {}
        self._tasks: dict[RunKey, asyncio.Task[None]] = {}
        self._last_pass: dict[RunKey, float] = {}
        self._follows: dict[RunKey, frozenset[RunKey]] = {}
        metrics.runs.set_function(lambda: len(self._tasks))

    def wake(self, key: RunKey) -> None:
        """Make a pass now: something has changed. A run that is not followed yet is followed from now on."""
        due = asyncio.get_running_loop().time() + self._settings.settle_seconds
        if key in self._tasks:
            self._alarms[key].advance(due)
            return
        alarm = self._alarms[key] = _Alarm()
        alarm.set(due)
        self._tasks[key] = asyncio.create_task(self._follow(key, alarm), name=f"run {key}")

    def nudge(self, key: RunKey) -> None:
        """Make a pass soon: there is newer progress, which alone is not worth one pass after the other."""
        if key in self._tasks:
            earliest = self._last_pass.get(key, 0.0) + self._settings.progress_seconds
            self._alarms[key].advance(max(earliest, asyncio.get_running_loop().time()))

    def nudge_followers(self, key: RunKey) -> None:
        """The same for the runs that wait for something from this one."""
        for follower, followed in self._follows.items():
            if key in followed:
                self.nudge(follower)

    async def close(self) -> None:
        """End all passes: at once, since whatever was begun is found and finished by the next process."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, key: RunKey, alarm: _Alarm) -> None:
        failures = 0
        try:
            while True:
                await alarm.ring()
                outcome = await self._guarded_pass(key)
                if outcome is not None and outcome.gone:
                    return
                failures = failures + 1 if outcome is None else 0
                now = asyncio.get_running_loop().time()
                self._last_pass[key] = now
                if outcome is not None:
                    self._follows[key] = outcome.follows
                # What came in during the pass has moved the alarm already: it stays where that is earlier.
                alarm.advance(now + (self._pause(failures) if outcome is None else self._rest(outcome)))
        finally:
            for book in (self._tasks, self._alarms, self._last_pass, self._follows):
                book.pop(key, None)

    async def _guarded_pass(self, key: RunKey) -> Outcome | None:
        """One pass; None where it failed."""
        async with self._slots:
            with self._heartbeat.beat(key), self._metrics.pass_seconds.time():
                try:
                    async with asyncio.timeout(self._settings.pass_timeout_seconds):
                        outcome = await self._run_pass(key)
                except (KubernetesError, PassFailedError) as error:
                    logger.warning("run %s: %s", key, error, extra={"run": str(key)})
                except TimeoutError:
                    logger.error("run %s: the pass took longer than it may", key, extra={"run": str(key)})
                except Exception:
                    # A fault of ours in one run must not stop the others; it is loud, and tried again.
                    logger.exception("run %s: the pass failed", key, extra={"run": str(key)})
                else:
                    self._metrics.passes.labels("ok").inc()
                    return outcome
        self._metrics.passes.labels("failed").inc()
        return None

    def _pause(self, failures: int) -> float:
        doubled: float = 2.0 ** min(failures - 1, 30)
        pause = min(self._settings.retry_max_seconds, self._settings.retry_initial_seconds * doubled)
        return pause * random.uniform(1 - _JITTER, 1)

    def _rest(self, outcome: Outcome) -> float:
        longest = self._settings.idle_seconds if outcome.idle else self._settings.fallback_seconds
        rest = longest * random.uniform(1 - _JITTER, 1)
        return rest if outcome.after_seconds is None else min(rest, outcome.after_seconds)
