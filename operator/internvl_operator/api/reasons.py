"""Every reason that a condition, an Event or a failure of an InternVLTraining can carry, with what to do about it.

Reasons are part of the API: people alert on them. They are added, never renamed. The reference page is generated
from this table.
"""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """CamelCase names, as the API conventions ask; the table `MEANINGS` says what each stands for."""

    # Accepted
    SPEC_VALID = "SpecValid"
    INVALID_SPEC = "InvalidSpec"
    INVALID_PARALLELISM = "InvalidParallelism"
    # Progressing
    INDEXING_DATA = "IndexingData"
    WAITING_FOR_VISION = "WaitingForVision"
    VISION_SOURCE_NOT_FOUND = "VisionSourceNotFound"
    WAITING_FOR_WEIGHTS = "WaitingForWeights"
    STORE_UNAVAILABLE = "StoreUnavailable"
    STAGE_STARTING = "StageStarting"
    JOB_REJECTED = "JobRejected"
    STAGE_RUNNING = "StageRunning"
    RESTARTING = "Restarting"
    WAITING_FOR_PODS = "WaitingForPods"
    WAITING_FOR_CHECKPOINT = "WaitingForCheckpoint"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    FINISHED = "Finished"
    # CheckpointReady
    NO_CHECKPOINT_YET = "NoCheckpointYet"
    MANIFEST_VERIFIED = "ManifestVerified"
    # Succeeded
    ALL_STAGES_DONE = "AllStagesDone"
    # Failed
    DATA_INVALID = "DataInvalid"
    RETRY_LIMIT_EXCEEDED = "RetryLimitExceeded"
    USER_ERROR = "UserError"
    HANDOFF_INVALID = "HandoffInvalid"
    VISION_SOURCE_FAILED = "VisionSourceFailed"
    VISION_SOURCE_INVALID = "VisionSourceInvalid"
    WEIGHTS_INVALID = "WeightsInvalid"
    # of one attempt, in lastFailure and failures
    TRAINER_FAILED = "TrainerFailed"
    INTERRUPTED = "Interrupted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    JOB_VANISHED = "JobVanished"


class Meaning(NamedTuple):
    """Where a reason appears, what happened, and what a person can do."""

    condition: str
    happened: str
    remedy: str


MEANINGS: dict[Reason, Meaning] = {
    Reason.SPEC_VALID: Meaning("Accepted", "Every stage could be laid out on its nodes.", ""),
    Reason.INVALID_SPEC: Meaning(
        "Accepted", "A field has a value that nothing can be planned with; the message names it.", "Correct the field."
    ),
    Reason.INVALID_PARALLELISM: Meaning(
        "Accepted",
        "Tensor, pipeline and data parallel sizes do not fit the nodes, the model or the batch.",
        "Correct spec.parallelism, spec.resources or the stage that the message names.",
    ),
    Reason.INDEXING_DATA: Meaning(
        "Progressing", "A Job reads the stage's data once and records the size of each sample; training follows.",
        "Look at the Job and its pods. One that cannot start (image, quota, podTemplate) may be deleted once that is "
        "corrected: it is made again.",
    ),
    Reason.WAITING_FOR_VISION: Meaning(
        "Progressing", "The run named by spec.vision.from has not published its vision encoder yet.", "Wait."
    ),
    Reason.VISION_SOURCE_NOT_FOUND: Meaning(
        "Progressing",
        "The run named by spec.vision.from does not exist: not applied yet, or deleted.",
        "Apply it, or start from a published manifest with spec.vision.from.uri.",
    ),
    Reason.WAITING_FOR_WEIGHTS: Meaning(
        "Progressing", "A manifest that spec.weights or spec.vision.from.uri names is not there yet.",
        "Convert and upload the weights, or correct the URI.",
    ),
    Reason.STORE_UNAVAILABLE: Meaning(
        "Progressing", "The object store did not answer, so nothing could be verified; the operator keeps trying.",
        "Check spec.storage, the Secret and the ConfigMap that it names, and the store.",
    ),
    Reason.STAGE_STARTING: Meaning(
        "Progressing", "The attempt's job exists or is about to; not all of its pods run yet.", "Look at the pods."
    ),
    Reason.JOB_REJECTED: Meaning(
        "Progressing", "The API server refused the attempt's job, or the index Job; the message is its own.",
        "Correct what it names (quota, admission policy, spec.podTemplate); the operator keeps trying.",
    ),
    Reason.STAGE_RUNNING: Meaning("Progressing", "The attempt's pods run.", ""),
    Reason.RESTARTING: Meaning(
        "Progressing", "The last attempt failed in a way that another can cure; it follows after a pause.",
        "Read status.failures.",
    ),
    Reason.WAITING_FOR_PODS: Meaning(
        "Progressing", "Pods of the attempt before still run, so the next may not start.",
        "If their node is dead, delete the node or force-delete the pods.",
    ),
    Reason.WAITING_FOR_CHECKPOINT: Meaning(
        "Progressing, CheckpointReady",
        "The job succeeded, but the final manifest of this very attempt is not in the object store yet.",
        "Wait.",
    ),
    Reason.SUSPENDING: Meaning(
        "Progressing", "spec.suspend is set; pods are given their grace period to commit a checkpoint.", "Wait."
    ),
    Reason.SUSPENDED: Meaning(
        "Progressing", "spec.suspend is set and nothing runs.", "Set spec.suspend to false to resume."
    ),
    Reason.FINISHED: Meaning("Progressing", "The run has ended; Succeeded or Failed says how.", ""),
    Reason.NO_CHECKPOINT_YET: Meaning("CheckpointReady", "No stage has handed on a verified checkpoint yet.", ""),
    Reason.MANIFEST_VERIFIED: Meaning(
        "CheckpointReady", "The newest finished stage's final manifest and all its objects were verified.", ""
    ),
    Reason.ALL_STAGES_DONE: Meaning("Succeeded", "Every stage ended with a verified checkpoint.", ""),
    Reason.DATA_INVALID: Meaning(
        "Failed", "The index Job says that the stage's data, or a setting it is read with, is wrong.",
        "Correct what the message names (`internvl data check` lists every bad sample), and apply a new run.",
    ),
    Reason.RETRY_LIMIT_EXCEEDED: Meaning(
        "Failed", "A stage, or the index Job before it, failed more often than spec.runPolicy.retry.limit allows.",
        "Read status.failures and the kept pods' logs.",
    ),
    Reason.USER_ERROR: Meaning(
        "Failed", "The trainer ended with an exit code that says another attempt would fail in the same way.",
        "Correct the config, data or checkpoint that the message names, and apply a new run.",
    ),
    Reason.HANDOFF_INVALID: Meaning(
        "Failed, CheckpointReady",
        "A stage's job succeeded, yet its final checkpoint is missing or is not what its manifest says.",
        "The message names the object and how it differs; check who else writes to spec.storage.uri.",
    ),
    Reason.VISION_SOURCE_FAILED: Meaning(
        "Failed", "The run named by spec.vision.from failed before it published its vision encoder.",
        "Repair that run, then apply both again.",
    ),
    Reason.VISION_SOURCE_INVALID: Meaning(
        "Failed",
        "spec.vision.from names a stage that does not exist or publishes no vision, or the manifest is damaged.",
        "Correct the reference, or add `publish: [vision]` to the source's stage.",
    ),
    Reason.WEIGHTS_INVALID: Meaning(
        "Failed", "A manifest that spec.weights names is damaged or lacks the component.", "Correct spec.weights."
    ),
    Reason.TRAINER_FAILED: Meaning("an attempt", "A trainer pod failed; exitCode and message say how.", ""),
    Reason.INTERRUPTED: Meaning(
        "an attempt",
        "Pods were told to stop (suspend, preemption, drain, eviction from a node under pressure). "
        "Not counted as a failure.",
        "",
    ),
    Reason.DEADLINE_EXCEEDED: Meaning(
        "an attempt", "It ran longer than spec.runPolicy.attemptTimeoutSeconds and was stopped.", ""
    ),
    Reason.JOB_VANISHED: Meaning("an attempt", "Someone other than the operator deleted its job.", ""),
}  # fmt: skip
