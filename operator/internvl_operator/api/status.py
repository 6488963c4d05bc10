"""The status of an InternVLTraining: all that the operator remembers. Written whole, by one writer, once per pass.

Conditions are the contract; `phase`, `currentStage` and `stagesSummary` are derived for people. Floats are strings.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from internvl_operator.api.base import Decimal, Message, ReasonName, Sha256, StageName, StatusModel, Timestamp, keyed_by
from internvl_operator.api.reasons import Reason
from internvl_trainer.contract.base import Component

MAX_FAILURES = 10
"""Length of the ring of failures."""


class Phase(StrEnum):
    """One word for `kubectl get`, derived from conditions and stages. No logic depends on it."""

    PENDING = "Pending"
    WAITING = "Waiting"
    INDEXING = "Indexing"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class StageState(StrEnum):
    """Where one stage stands."""

    PENDING = "Pending"
    INDEXING = "Indexing"
    WAITING_FOR_VISION = "WaitingForVision"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    HANDOFF = "Handoff"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """The condition types, all of positive polarity but the terminal Failed."""

    ACCEPTED = "Accepted"
    PROGRESSING = "Progressing"
    CHECKPOINT_READY = "CheckpointReady"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Condition(StatusModel):
    """A metav1.Condition."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    observed_generation: int = Field(default=0, ge=0, description="metadata.generation that this was decided for")
    last_transition_time: Timestamp = Field(description="when `status` last changed")
    reason: ReasonName
    message: Message = ""


class Progress(StatusModel):
    """The newest report of the current stage; that of its last attempt until the next one reports."""

    stage: StageName
    attempt: int = Field(ge=1)
    step: int = Field(ge=0, description="finished optimizer steps of the stage")
    total_steps: int = Field(ge=1)
    percent: int = Field(ge=0, le=100, description="of this stage's steps")
    steps: Annotated[str, Field(max_length=24)] = Field(description="step and total, for people: 40/120")
    loss: Annotated[str, Field(max_length=24)] | None = None
    learning_rate: Annotated[str, Field(max_length=24)] | None = None
    tokens_per_second: int | None = Field(default=None, ge=0, description="of the whole job")
    tiles_per_second: Decimal | None = None
    eta_seconds: int | None = Field(default=None, ge=0, description="seconds until the stage's last step")
    eta: Annotated[str, Field(max_length=24)] | None = Field(default=None, description="the same, for people: 2h05m")
    last_report_time: Timestamp


class JobRef(StatusModel):
    """The child workload of an attempt."""

    api_version: Annotated[str, Field(max_length=64)]
    kind: Annotated[str, Field(max_length=64)]
    name: Annotated[str, Field(max_length=63)]
    uid: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="set once the job was seen; a job that was seen and is gone has vanished"
    )


class CheckpointStatus(StatusModel):
    """A committed checkpoint of a stage."""

    step: int = Field(ge=0)
    uri: Annotated[str, Field(max_length=2048)] = Field(description="its manifest")
    manifest_sha256: Sha256
    verified: bool = Field(default=False, description="whether the operator has verified it, or a trainer reported it")


class PublishedComponent(StatusModel):
    """A component that this stage hands to other runs."""

    component: Component
    uri: Annotated[str, Field(max_length=2048)] = Field(description="its component manifest")
    sha256: Sha256


class ComponentOrigin(StatusModel):
    """What one component of a stage started from: a link of its lineage."""

    component: Component
    uri: Annotated[str, Field(max_length=2048)] = Field(description="checkpoint or component manifest")
    sha256: Sha256
    run: Annotated[str, Field(max_length=320)] | None = Field(default=None, description="namespace/name of the run")
    stage: StageName | None = None


class Failure(StatusModel):
    """Why one attempt ended without success."""

    time: Timestamp
    stage: StageName
    attempt: int = Field(ge=1)
    reason: ReasonName
    exit_code: int | None = Field(default=None, description="of the container that failed first, where one did")
    message: Message = ""
    pod: Annotated[str, Field(max_length=253)] | None = None


class Restarts(StatusModel):
    """How many attempts of a stage ended early, by kind. Only failures count against the retry limit."""

    failures: int = Field(default=0, ge=0)
    interruptions: int = Field(default=0, ge=0)


class DataIndexState(StrEnum):
    """Where the index of a stage's data stands."""

    INDEXING = "Indexing"
    INDEXED = "Indexed"
    FAILED = "Failed"


class DataIndex(StatusModel):
    """The index of a stage's data. Stages that read the same data in the same way have the same one."""

    job: Annotated[str, Field(max_length=63)] = Field(description="the Job that makes it; its name says of what")
    state: DataIndexState


class StageStatus(StatusModel):
    """One stage. `attempt` and `closedAttempt` are the ledger that keeps two attempts from living at once.

    An attempt is opened by raising `attempt`, always before its job is created, and closed by raising
    `closedAttempt`, only when its job is finished or gone and none of its pods is alive. The next one may be opened
    when both are equal.
    """

    name: StageName
    state: StageState = StageState.PENDING
    attempt: int = Field(default=0, ge=0, le=999, description="newest attempt opened; 0: none yet. The fencing token")
    closed_attempt: int = Field(default=0, ge=0, le=999, description="newest attempt that is over")
    stopping: Reason | None = Field(
        default=None, description="why the open attempt's job is being deleted; written before it is deleted"
    )
    job_ref: JobRef | None = None
    data_index: DataIndex | None = Field(
        default=None, description="absent: not looked at yet, or given up when the run was suspended"
    )
    start_time: Timestamp | None = Field(default=None, description="when the first attempt was opened")
    completion_time: Timestamp | None = None
    restarts: Restarts = Restarts()
    steps: int = Field(default=0, ge=0, description="finished optimizer steps")
    first_loss: Annotated[str, Field(max_length=24)] | None = None
    last_loss: Annotated[str, Field(max_length=24)] | None = None
    last_checkpoint: CheckpointStatus | None = None
    published: Annotated[
        tuple[PublishedComponent, ...], Field(max_length=3, json_schema_extra=keyed_by("component"))
    ] = ()
    initialised_from: Annotated[
        tuple[ComponentOrigin, ...], Field(max_length=3, json_schema_extra=keyed_by("component"))
    ] = Field(default=(), description="what each component started from; random weights where it is not listed")
    last_failure: Failure | None = None

    @property
    def has_begun(self) -> bool:
        """Whether an attempt was ever opened, and so what the stage starts from is on record."""
        return self.start_time is not None

    @property
    def is_open(self) -> bool:
        """Whether an attempt is under way: recorded, and not known to be over."""
        return self.attempt > self.closed_attempt


class TrainingStatus(StatusModel):
    """All that the operator remembers of a run."""

    observed_generation: int = Field(default=0, ge=0)
    phase: Phase = Phase.PENDING
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8, json_schema_extra=keyed_by("type"))] = ()
    current_stage: StageName | None = Field(default=None, description="the stage whose turn it is, or the last one")
    attempt: int = Field(default=0, ge=0, le=999, description="newest attempt of the current stage")
    stages_summary: Annotated[str, Field(max_length=16)] = Field(default="", description="finished/all stages")
    progress: Progress | None = None
    stages: Annotated[tuple[StageStatus, ...], Field(max_length=8, json_schema_extra=keyed_by("name"))] = ()
    failures: Annotated[tuple[Failure, ...], Field(max_length=MAX_FAILURES)] = Field(
        default=(), description="the newest failures of all stages, oldest first"
    )

    def stage(self, name: str) -> StageStatus:
        """The status of a stage; that of a stage nothing was decided for yet where there is none."""
        return next((stage for stage in self.stages if stage.name == name), StageStatus(name=name))

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of that type, or None where it was never set."""
        return next((condition for condition in self.conditions if condition.type == kind), None)

    def is_true(self, kind: ConditionType) -> bool:
        """Whether the condition of that type is True."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended, one way or the other."""
        return self.is_true(ConditionType.SUCCEEDED) or self.is_true(ConditionType.FAILED)
