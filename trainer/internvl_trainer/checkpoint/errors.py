"""What can go wrong with a checkpoint.

Each error takes one message, so that it travels between the processes of a job and comes out on all of them as the
same type, and carries the exit code that a trainer ends with because of it.
"""

from collections.abc import Iterable
from typing import ClassVar, Self

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.gate import Problem


class CheckpointError(Exception):
    """Base of all faults of checkpoints."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CHECKPOINT


class InvalidCheckpointError(CheckpointError):
    """A checkpoint does not exist, or its objects are not those of its manifest."""

    @classmethod
    def of(cls, uri: str, problems: Iterable[Problem]) -> Self:
        """One error that lists the problems of the manifest at `uri`."""
        return cls(f"{uri} cannot be used: " + "; ".join(f"{problem.reason}: {problem}" for problem in problems))


class GeometryMismatchError(CheckpointError):
    """A component of a checkpoint has another shape than the job's model."""


class MissingTensorsError(CheckpointError):
    """A checkpoint lacks tensors that the job's model has, or has them in another shape."""


class IncompleteTensorError(CheckpointError):
    """A tensor that is to be written has another shape or dtype than it should, or lacks layers."""

    exit_code = ExitCode.INVALID_CONFIG


class UnknownTensorError(CheckpointError):
    """A tensor's name tells no component: it begins with none of the known prefixes."""

    exit_code = ExitCode.INVALID_CONFIG


class CheckpointConflictError(CheckpointError):
    """Another checkpoint is committed under the very key that this one was to get.

    Two processes ran the same attempt of the same stage, or what the attempt committed was damaged. The next attempt
    has a number, and so keys, of its own: retrying helps.
    """

    exit_code = ExitCode.CHECKPOINT_CONFLICT


class ReplacedAttemptError(CheckpointError):
    """A later attempt of the stage has begun: what this one trains does not count any more."""

    exit_code = ExitCode.CHECKPOINT_CONFLICT


class DataPositionError(CheckpointError):
    """A checkpoint's count of consumed packs is not where the job's global batch would go on."""

    exit_code = ExitCode.INVALID_CONFIG


class SeedError(CheckpointError):
    """A checkpoint was trained with other seeds than the job has: the rest of the stage would be another stage's."""

    exit_code = ExitCode.INVALID_CONFIG


class NothingToSaveError(CheckpointError):
    """A checkpoint was asked for before the first optimizer step."""

    exit_code = ExitCode.INVALID_CONFIG


class NotFinalError(CheckpointError):
    """Components were to be published from a checkpoint that is not the stage's last."""


class DestinationError(CheckpointError):
    """A checkpoint was to be copied to a place that says that it is another one."""

    exit_code = ExitCode.INVALID_CONFIG


class ShardError(CheckpointError):
    """megatron.core could not write or read the sharded folder in scratch, with sound bytes."""

    exit_code = ExitCode.PEER_LOST


class ScratchError(CheckpointError):
    """The scratch folder cannot be written. Check the size of the pod's volume at $INTERNVL_SCRATCH."""

    exit_code = ExitCode.PEER_LOST


class TransferProcessDiedError(CheckpointError):
    """A process that uploads or downloads shards is gone without a word."""

    exit_code = ExitCode.PEER_LOST
