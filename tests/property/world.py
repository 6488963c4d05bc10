"""A small world for `plan`: one run, its jobs and pods, an object store and a clock, with all that can go wrong.

It keeps the status as JSON under a resourceVersion, as the API server does, and checks at every creation of a job the
two promises that everything rests on: one live job per run, and stages in order, each from a verified checkpoint.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import TrainingStatus
from internvl_operator.domain import queries
from internvl_operator.domain.actions import Action, CreateJob, DeleteJob, UpdateStatus
from internvl_operator.domain.plan import plan
from internvl_operator.domain.state import (
    AttemptKey,
    ChildJob,
    GateResult,
    JobPhase,
    NotThere,
    Observed,
    PodFailure,
    SourceReady,
    Verified,
)
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.manifest import LossSummary, ManifestRef
from internvl_trainer.contract.progress import ProgressReport

RUN = RunIdentity(uid="uid-of-run", namespace="team-a", name="demo")
DIGEST = "ab" * 32


def training_spec(stage_count: int = 2, *, retry_limit: int = 2, **changes: Any) -> TrainingSpec:
    """A valid spec of the tiny model: `stage0`, `stage1`... of 10 steps each, without pauses between attempts."""
    document: dict[str, Any] = {
        "model": "tiny-8b-like",
        "image": {"ref": "trainer:test"},
        "resources": {"nodes": 2, "processesPerNode": 2},
        "parallelism": {"tensor": 2, "pipeline": 2},
        "storage": {"uri": "s3://runs/demo"},
        "data": {"meta": "s3://data/meta.json", "tokenizer": "s3://data/tokenizer"},
        "stages": [
            {
                "name": f"stage{index}",
                "trainable": ["projector"],
                "steps": 10,
                "globalBatch": 2,
                "optimizer": {"peakLr": "1e-3"},
                "publish": ["vision"] if index == 0 else [],
            }
            for index in range(stage_count)
        ],
        "runPolicy": {"retry": {"limit": retry_limit, "backoffSeconds": {"initial": 0, "max": 0}}},
    }
    return TrainingSpec.model_validate(document | changes)


@dataclass
class Job:
    """A child job with its pods; `pods_alive` outlives the job where a node is slow to stop them."""

    create: CreateJob
    uid: str
    created_at: datetime
    phase: JobPhase = JobPhase.CREATED
    finished_at: datetime | None = None
    exists: bool = True
    pods_alive: bool = True
    failure: PodFailure | None = None

    @property
    def key(self) -> AttemptKey:
        return AttemptKey(self.create.stage.name, self.create.attempt)

    @property
    def is_live(self) -> bool:
        """Whether a pod of it runs or may yet be started."""
        return self.pods_alive or (self.exists and self.phase in (JobPhase.CREATED, JobPhase.RUNNING))


@dataclass
class World:
    """One run and everything around it."""

    spec: TrainingSpec
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    stored: dict[str, Any] = field(default_factory=dict)
    resource_version: int = 0
    jobs: list[Job] = field(default_factory=list)
    manifests: dict[str, ManifestRef] = field(default_factory=dict)
    reports: dict[AttemptKey, ProgressReport] = field(default_factory=dict)

    # ---- what the operator does ------------------------------------------------------------------------------------

    @property
    def status(self) -> TrainingStatus:
        """The status as it is persisted."""
        return TrainingStatus.model_validate(self.stored)

    def think(self) -> tuple[list[Action], int]:
        """Observe and plan; the actions are valid for the resourceVersion that is returned."""
        status = self.status
        jobs = tuple(self._child(job) for job in self.jobs if job.exists)
        observed = Observed(
            run=RUN,
            generation=1,
            status=status,
            jobs=jobs,
            live_pods={job.key: (f"{job.create.name}-worker-0",) for job in self.jobs if job.pods_alive},
            pod_failures={job.key: (job.failure,) for job in self.jobs if job.failure},
            gates={query.key: self._gate(query.stage) for query in queries.gate_queries(self.spec, RUN, status, jobs)},
            sources={
                query.component: SourceReady(ManifestRef(uri="s3://models/m", sha256=DIGEST))
                for query in queries.source_queries(self.spec, status)
            },
            progress=dict(self.reports),
        )
        return plan(self.spec, observed, self.now), self.resource_version

    def act(self, actions: list[Action], seen: int, *, crash_after: int | None = None) -> None:
        """Apply actions in order until the end, a conflict, or the operator's death after `crash_after` of them."""
        for count, action in enumerate(actions):
            if count == crash_after:
                return
            match action:
                case UpdateStatus(status=status):
                    if seen != self.resource_version:
                        return
                    assert status.to_dict() != self.stored, "a status was written that changes nothing"
                    self.stored = status.to_dict()
                    self.resource_version += 1
                case CreateJob():
                    self._create(action)
                case DeleteJob(uid=uid):
                    self._delete(uid)
                case _:
                    pass

    def settle(self, passes: int = 20) -> None:
        """Pass after pass until the operator has nothing more to do."""
        for _ in range(passes):
            before = (self.stored, len(self.jobs), [job.exists for job in self.jobs])
            self.act(*self.think())
            if before == (self.stored, len(self.jobs), [job.exists for job in self.jobs]):
                return
        raise AssertionError(f"the operator does not come to rest: {self.stored}")

    # ---- what else happens -----------------------------------------------------------------------------------------

    @property
    def current(self) -> Job | None:
        """The job that exists and has not finished."""
        return next((job for job in self.jobs if job.exists and not job.finished_at), None)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def start(self) -> None:
        if job := self.current:
            job.phase = JobPhase.RUNNING

    def report(self, step: int) -> None:
        if (job := self.current) and job.phase is JobPhase.RUNNING:
            self.reports[job.key] = ProgressReport(
                run_uid=RUN.uid, stage=job.key.stage, attempt=job.key.attempt, step=step, total_steps=10, loss=2.5,
                reported_at=self.now,
            )  # fmt: skip

    def succeed(self, *, manifest: bool = True) -> None:
        if job := self.current:
            self._end(job, JobPhase.SUCCEEDED)
            job.pods_alive = False
            if manifest:
                self.commit(job)

    def commit(self, job: Job) -> None:
        """The final manifest of the job's stage appears in the store."""
        uri = f"s3://runs/demo/{RUN.uid}/{job.key.stage}/step-00000010/a{job.key.attempt}/MANIFEST.json"
        self.manifests.setdefault(job.key.stage, ManifestRef(uri=uri, sha256=DIGEST))

    def fail(self, exit_code: int | None, *, disrupted: bool = False, linger: bool = False) -> None:
        if job := self.current:
            self._end(job, JobPhase.FAILED)
            job.pods_alive = linger
            job.failure = PodFailure(
                f"{job.create.name}-worker-0", exit_code, finished_at=self.now, disrupted=disrupted
            )

    def vanish(self) -> None:
        """Somebody deletes the job by hand, after the operator has taken note of it."""
        job = self.current
        if job and any(s.job_ref and s.job_ref.uid == job.uid for s in self.status.stages):
            job.exists, job.finished_at = False, self.now

    def reap(self) -> None:
        """The pods of deleted and of finished jobs are gone at last."""
        for job in self.jobs:
            if not job.exists or job.finished_at:
                job.pods_alive = False

    def suspend(self, value: bool) -> None:
        self.spec = self.spec.model_copy(update={"suspend": value})

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _create(self, create: CreateJob) -> None:
        existing = next((job for job in self.jobs if job.create.name == create.name and job.exists), None)
        if existing is not None:
            return
        names = [job.create.name for job in self.jobs]
        assert create.name not in names, f"{create.name} is created a second time"
        alive = [job.create.name for job in self.jobs if job.is_live]
        assert not alive, f"{create.name} is created while {alive} live"
        earlier = [stage.name for stage in self.spec.stages[: create.stage.index]]
        assert all(stage in self.manifests for stage in earlier), f"{create.name} is created before {earlier} are done"
        if earlier:
            assert create.config.init == dict.fromkeys(Component, self.manifests[earlier[-1]])
        stage = self.status.stage(create.stage.name)
        assert stage.attempt == create.attempt, f"{create.name} is created without being on record"
        self.jobs.append(Job(create, f"uid-{len(self.jobs)}", self.now))

    def _delete(self, uid: str) -> None:
        for job in self.jobs:
            if job.uid == uid:
                # Pods get their grace period: `reap` ends them.
                job.exists, job.finished_at = False, job.finished_at or self.now

    def _end(self, job: Job, phase: JobPhase) -> None:
        job.phase, job.finished_at = phase, self.now

    def _gate(self, stage: str) -> GateResult:
        ref = self.manifests.get(stage)
        if ref is None:
            return NotThere(f"s3://runs/demo/{RUN.uid}/{stage}/: no manifest of step 10")
        return Verified(ref, 10, LossSummary(first=3.0, last=1.0, steps=10), {Component.VISION: ref})

    @staticmethod
    def _child(job: Job) -> ChildJob:
        return ChildJob(
            name=job.create.name,
            uid=job.uid,
            stage=job.key.stage,
            attempt=job.key.attempt,
            phase=job.phase,
            created_at=job.created_at,
            finished_at=job.finished_at,
        )
