"""What one pass of the operator sees: a frozen tree of facts, read by the adapters, judged by `plan`.

Order of reading, which correctness rests on:

1. the InternVLTraining itself, spec and status, by GET (never from a watch cache), with its resourceVersion: the
   status write carries it, so a decision on old facts ends in a conflict before anything was created;
2. the child jobs and the index Jobs by LIST without resourceVersion (again no cache), then their pods in the same
   way. So children are never older than the record, and pods never older than their jobs;
3. the object store, and other runs, for what `domain.queries` says this pass needs to know (`gate_queries` of 1 and
   2, `source_queries` of 1).

Everything a restarted operator needs is in the CR's status, its children and the object store. The one thing kept in
memory alone is the progress reports: when they are lost, the next report is seconds away.

All datetimes are aware and in UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from internvl_operator.api.reasons import Reason
from internvl_operator.api.status import TrainingStatus
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.manifest import LossSummary, ManifestRef
from internvl_trainer.contract.progress import ProgressReport


class AttemptKey(NamedTuple):
    """One attempt of one stage, as the labels of its job and pods say."""

    stage: str
    attempt: int


# ---- children ------------------------------------------------------------------------------------------------------


class JobPhase(StrEnum):
    """What a child job's own conditions say. SUCCEEDED and FAILED are final."""

    CREATED = "Created"
    """It exists; its pods are not all started (or it is queued, or suspended by a queue)."""
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class ChildJob:
    """A child job owned by this CR (`jobs.pytorchjob.observe` makes it from the object)."""

    name: str
    uid: str
    stage: str
    attempt: int
    phase: JobPhase
    created_at: datetime
    finished_at: datetime | None = None
    """When SUCCEEDED or FAILED became true."""
    message: str = ""
    """The job controller's own words about its phase."""
    deleting: bool = False
    """Whether it has a deletionTimestamp."""

    @property
    def key(self) -> AttemptKey:
        """Which attempt it runs."""
        return AttemptKey(self.stage, self.attempt)

    @property
    def is_finished(self) -> bool:
        """Whether it will never start another pod."""
        return self.phase in (JobPhase.SUCCEEDED, JobPhase.FAILED)


@dataclass(frozen=True, slots=True)
class IndexJob:
    """A Job of this CR that indexes data (`jobs.index_job.observe` makes it from the object)."""

    name: str
    uid: str
    phase: JobPhase
    message: str = ""
    """The Job controller's own words about its end."""
    is_hopeless: bool = False
    """Whether it failed at a pod whose exit code says that no other pod would do better."""
    deleting: bool = False
    """Whether it has a deletionTimestamp."""

    @property
    def is_finished(self) -> bool:
        """Whether it will never start another pod."""
        return self.phase in (JobPhase.SUCCEEDED, JobPhase.FAILED)


@dataclass(frozen=True, slots=True)
class PodFailure:
    """A pod of an attempt or of an index Job that ended without success."""

    pod: str
    exit_code: int | None = None
    """Of the trainer's container; None where the pod never got so far (evicted, image not found)."""
    reason: str = ""
    """The container's or the pod's reason, e.g. Error, OOMKilled, Evicted."""
    message: str = ""
    """Termination message or the pod's message, free of secrets."""
    finished_at: datetime | None = None
    disrupted: bool = False
    """Whether the pod carries the condition DisruptionTarget=True (preempted, drained, evicted, node lost)."""


# ---- answers of the object store -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GateQuery:
    """Is the final checkpoint of this stage there and sound? Asked for a stage whose newest job succeeded.

    Wanted is the manifest of step `total_steps`, or the newest of those that say of themselves that they are the final
    one where the stage `may_end_early`, below `prefix`, of run `run_uid` and of `attempt` alone, judged by
    `internvl_trainer.contract.gate`, together with the component manifests of `publish` of the same attempt. The
    trainer commits under its own attempt even what it resumed at the stage's end. So a manifest of an earlier attempt
    proves nothing about this one: a pod that was given up for lost may have committed it at any time.
    """

    stage: str
    attempt: int
    run_uid: str
    total_steps: int
    prefix: str
    """`contract.keys.stage_prefix`, ending in a slash."""
    publish: tuple[Component, ...] = ()
    may_end_early: bool = False
    """Whether a limit on tokens may end the stage before `total_steps`."""

    @property
    def key(self) -> AttemptKey:
        """Under which key the answer is put into `Observed.gates`."""
        return AttemptKey(self.stage, self.attempt)


@dataclass(frozen=True, slots=True)
class Verified:
    """The final checkpoint is complete and sound, and so is every component manifest asked for."""

    ref: ManifestRef
    step: int
    loss: LossSummary | None
    """None where the checkpoint was not made by training."""
    published: Mapping[Component, ManifestRef] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotThere:
    """The store answered, and an object asked for does not exist (yet)."""

    missing: str
    """The object by its URI, or by what it should be and below which prefix: reads well before "does not exist"."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """The manifest is there and something is wrong with it. Each problem names the object and how it differs."""

    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The store (or the API server, for a run reference) did not answer, so nothing is known."""

    error: str


GateResult = Verified | NotThere | Invalid | Unavailable


# ---- where the run starts from -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunSource:
    """Another InternVLTraining of the same namespace, whose stage publishes the component."""

    run: str
    stage: str


@dataclass(frozen=True, slots=True)
class UriSource:
    """A checkpoint or component manifest in the object store."""

    uri: str


@dataclass(frozen=True, slots=True)
class SourceQuery:
    """Where does this component of the first stage come from? Asked until the first stage has recorded the answer.

    For a `RunSource` the adapter reads the other CR and hands it to `domain.vision.judge_source`, which either answers
    or names the component manifest; for that, as for a `UriSource`, it then reads the manifest, verifies it and what
    it points at (`contract.gate.judge_component` or `judge`), and answers `SourceReady` with the digest of its bytes.
    """

    component: Component
    source: RunSource | UriSource


@dataclass(frozen=True, slots=True)
class SourceReady:
    """The manifest exists and is sound. `run` (namespace/name) and `stage` are those that the manifest names."""

    ref: ManifestRef
    run: str | None = None
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class SourceWaiting:
    """Not there yet, and waiting may help. `reason` is one of WAITING_FOR_VISION, VISION_SOURCE_NOT_FOUND,
    WAITING_FOR_WEIGHTS."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class SourceInvalid:
    """It will never be right. `reason` is one of VISION_SOURCE_FAILED, VISION_SOURCE_INVALID, WEIGHTS_INVALID."""

    reason: Reason
    message: str


SourceResult = SourceReady | SourceWaiting | SourceInvalid | Unavailable


# ---- all together --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observed:
    """Everything that one pass has seen of one run."""

    run: RunIdentity
    generation: int
    """metadata.generation of the spec that `plan` is given."""
    status: TrainingStatus
    """As persisted, under the resourceVersion that the status write will carry; `TrainingStatus()` for none."""
    jobs: tuple[ChildJob, ...] = ()
    """All child jobs of this run's UID, also of old attempts and those being deleted."""
    live_pods: Mapping[AttemptKey, tuple[str, ...]] = field(default_factory=dict)
    """Names of pods that have not ended (phase neither Succeeded nor Failed), also where their job is gone."""
    pod_failures: Mapping[AttemptKey, tuple[PodFailure, ...]] = field(default_factory=dict)
    index_jobs: tuple[IndexJob, ...] = ()
    """All index Jobs of this run's UID, also finished ones and those being deleted."""
    live_index_pods: tuple[str, ...] = ()
    """Names of their pods that have not ended, also where their Job is gone."""
    index_failures: Mapping[str, tuple[PodFailure, ...]] = field(default_factory=dict)
    """Their failed pods, by the Job's UID."""
    gates: Mapping[AttemptKey, GateResult] = field(default_factory=dict)
    """Answers to `queries.gate_queries`; a missing answer counts as not asked yet, and the stage waits."""
    sources: Mapping[Component, SourceResult] = field(default_factory=dict)
    """Answers to `queries.source_queries`; a missing answer counts as not asked yet, and the first stage waits."""
    progress: Mapping[AttemptKey, ProgressReport] = field(default_factory=dict)
    """The newest report of each attempt that is known; reports of other than the open attempt are ignored."""
    rejection: str | None = None
    """Why the API server refused the last `CreateJob` or `CreateIndexJob` of this run, in its words; None once one was
    accepted."""
    deleting: bool = False
    """Whether the CR has a deletionTimestamp: then nothing is done, the garbage collector takes the children."""

    def job(self, key: AttemptKey) -> ChildJob | None:
        """The child job of an attempt, or None where there is none."""
        return next((job for job in self.jobs if job.key == key), None)

    def index_job(self, name: str) -> IndexJob | None:
        """The index Job of that name, or None where there is none."""
        return next((job for job in self.index_jobs if job.name == name), None)

    def live_pods_of(self, stage: str) -> tuple[str, ...]:
        """Names of all live pods of a stage, whatever their attempt."""
        return tuple(name for key, names in sorted(self.live_pods.items()) if key.stage == stage for name in names)
