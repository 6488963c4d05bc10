"""A small world for `plan`: one run, its jobs and pods, an object store and a clock, with all that can go wrong.

It keeps the status as JSON under a resourceVersion, as the API server does, and checks at every creation of a job the
promises that everything rests on: one live job per run, and stages in order, each from a verified checkpoint and with
its data indexed.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import DataIndex, DataIndexState, TrainingStatus
from internvl_operator.domain import indexing, queries
from internvl_operator.domain.actions import (
    Action,
    CreateIndexJob,
    CreateJob,
    DeleteIndexJob,
    DeleteJob,
    UpdateStatus,
)
from internvl_operator.domain.plan import plan
from internvl_operator.domain.stages import expand
from internvl_operator.domain.state import (
    AttemptKey,
    ChildJob,
    GateResult,
    IndexJob,
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
class Index:
    """An index Job with its pod, which outlives it by its grace period."""

    create: CreateIndexJob
    uid: str
    phase: JobPhase = JobPhase.CREATED
    exists: bool = True
    pod_alive: bool = True
    failures: tuple[PodFailure, ...] = ()
    is_hopeless: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it exists and has not ended."""
        return self.exists and self.phase in (JobPhase.CREATED, JobPhase.RUNNING)


def indexed(spec: TrainingSpec) -> dict[str, Any]:
    """The status of a run whose stages' data is all indexed, and of which nothing else is known yet."""
    stages = [
        {"name": stage.name, "dataIndex": {"job": indexing.job_name(RUN.name, stage), "state": "Indexed"}}
        for stage in expand(spec).stages
    ]
    return {"stages": stages}


@dataclass
class World:
    """One run and everything around it. Unless `data_indexed` is False, its data was indexed before."""

    spec: TrainingSpec
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    stored: dict[str, Any] = field(default_factory=dict)
    resource_version: int = 0
    jobs: list[Job] = field(default_factory=list)
    indexes: list[Index] = field(default_factory=list)
    manifests: dict[AttemptKey, ManifestRef] = field(default_factory=dict)
    """Final manifests in the store, also those that came late, of attempts that had been replaced."""
    reports: dict[AttemptKey, ProgressReport] = field(default_factory=dict)
    data_indexed: bool = True

    def __post_init__(self) -> None:
        if self.data_indexed and not self.stored:
            self.stored = indexed(self.spec)

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
            index_jobs=tuple(self._index_child(index) for index in self.indexes if index.exists),
            live_index_pods=tuple(f"{index.create.name}-{index.uid}" for index in self.indexes if index.pod_alive),
            index_failures={index.uid: index.failures for index in self.indexes if index.failures},
            gates={query.key: self._gate(query.key) for query in queries.gate_queries(self.spec, RUN, status, jobs)},
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
                case CreateIndexJob():
                    self._create_index(action)
                case DeleteIndexJob(uid=uid):
                    for index in self.indexes:
                        index.exists = index.exists and index.uid != uid
                case _:
                    pass

    def settle(self, passes: int = 20) -> None:
        """Pass after pass until the operator has nothing more to do."""
        for _ in range(passes):
            before = self._children()
            self.act(*self.think())
            if before == self._children():
                return
        raise AssertionError(f"the operator does not come to rest: {self.stored}")

    def _children(self) -> object:
        return self.stored, [job.exists for job in self.jobs], [index.exists for index in self.indexes]

    # ---- what else happens -----------------------------------------------------------------------------------------

    @property
    def current(self) -> Job | None:
        """The job that exists and has not finished."""
        return next((job for job in self.jobs if job.exists and not job.finished_at), None)

    @property
    def index(self) -> Index | None:
        """The index Job that exists and has not finished."""
        return next((index for index in self.indexes if index.is_live), None)

    def start_indexing(self) -> None:
        if index := self.index:
            index.phase = JobPhase.RUNNING

    def fail_index_pod(self, exit_code: int | None, message: str = "") -> None:
        """A pod of the index Job fails; another one follows, by the Job controller."""
        if index := self.index:
            index.failures += (PodFailure(f"{index.create.name}-{len(index.failures)}", exit_code, message=message),)

    def end_indexing(self, phase: JobPhase, *, hopeless: bool = False) -> None:
        if index := self.index:
            index.phase, index.pod_alive, index.is_hopeless = phase, False, hopeless

    def lose_index_job(self) -> None:
        """Somebody deletes the index Job by hand, whatever has become of it."""
        for index in self.indexes:
            index.exists = False

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
        """The final manifest of the job's attempt appears in the store, maybe long after the job has gone."""
        uri = f"s3://runs/demo/{RUN.uid}/{job.key.stage}/step-00000010/a{job.key.attempt}/MANIFEST.json"
        self.manifests.setdefault(job.key, ManifestRef(uri=uri, sha256=DIGEST))

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
        for index in self.indexes:
            index.pod_alive = index.is_live

    def suspend(self, value: bool) -> None:
        self.spec = self.spec.model_copy(update={"suspend": value})

    def correct_data(self, **changes: Any) -> None:
        """The user changes fields of spec.data, which makes another version of the object."""
        self.spec = self.spec.model_copy(update={"data": self.spec.data.model_copy(update=changes)})
        self.resource_version += 1
        self.data_indexed = False

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _create(self, create: CreateJob) -> None:
        existing = next((job for job in self.jobs if job.create.name == create.name and job.exists), None)
        if existing is not None:
            return
        names = [job.create.name for job in self.jobs]
        assert create.name not in names, f"{create.name} is created a second time"
        alive = [job.create.name for job in self.jobs if job.is_live]
        assert not alive, f"{create.name} is created while {alive} live"
        index = indexing.job_name(RUN.name, create.stage)
        assert index in self._made(), f"{create.name} is created before {index} has indexed its data"
        earlier = [
            AttemptKey(s.name, self.status.stage(s.name).attempt) for s in self.spec.stages[: create.stage.index]
        ]
        assert all(key in self.manifests for key in earlier), f"{create.name} is created before {earlier} are done"
        if earlier:
            assert create.config.init == dict.fromkeys(Component, self.manifests[earlier[-1]])
        stage = self.status.stage(create.stage.name)
        assert stage.attempt == create.attempt, f"{create.name} is created without being on record"
        self.jobs.append(Job(create, f"uid-{len(self.jobs)}", self.now))

    def _create_index(self, create: CreateIndexJob) -> None:
        if any(index.create.name == create.name and index.exists for index in self.indexes):
            return
        alive = [job.create.name for job in self.jobs if job.is_live and job.create.stage.index <= create.stage.index]
        assert not alive, f"{create.name} is created while {alive} live"
        assert not any(index.is_live for index in self.indexes), f"{create.name} is created beside another"
        done = [stage.data_index for stage in self.status.stages if stage.data_index]
        assert DataIndex(job=create.name, state=DataIndexState.INDEXED) not in done, f"{create.name} is made needlessly"
        self.indexes.append(Index(create, f"index-{len(self.indexes)}"))

    def _made(self) -> set[str]:
        made = {index.create.name for index in self.indexes if index.phase is JobPhase.SUCCEEDED}
        return made | {stage["dataIndex"]["job"] for stage in indexed(self.spec)["stages"] if self.data_indexed}

    def _delete(self, uid: str) -> None:
        for job in self.jobs:
            if job.uid == uid:
                # Pods get their grace period: `reap` ends them.
                job.exists, job.finished_at = False, job.finished_at or self.now

    def _end(self, job: Job, phase: JobPhase) -> None:
        job.phase, job.finished_at = phase, self.now

    def _gate(self, key: AttemptKey) -> GateResult:
        ref = self.manifests.get(key)
        if ref is None:
            below = f"s3://runs/demo/{RUN.uid}/{key.stage}/"
            return NotThere(f"the final manifest of step 10 by attempt {key.attempt} below {below}")
        return Verified(ref, 10, LossSummary(first=3.0, last=1.0, steps=10), {Component.VISION: ref})

    @staticmethod
    def _index_child(index: Index) -> IndexJob:
        return IndexJob(index.create.name, index.uid, index.phase, is_hopeless=index.is_hopeless)

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
