"""Exit codes of a trainer pod: how the trainer tells the operator whether another attempt can help.

The launcher passes the code of the first process that failed on unchanged (torchrun would turn it into 1), so the
operator can read it from the container's state. Codes above 128 are deaths by signal (128 + signal number).
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """The codes that our trainer gives on purpose; anything else is a crash, and a crash is retried."""

    SUCCESS = 0
    INVALID_CONFIG = 2
    """The job config, the data's format or the model geometry is wrong, or the stage's own checkpoint was trained with
    other seeds or another global batch: another attempt fails the same way."""
    INVALID_CHECKPOINT = 10
    """A checkpoint that the config names does not exist, or its bytes are not those of its manifest."""
    NON_FINITE_LOSS = 11
    """All ranks agreed to stop before an optimizer step: its loss or gradient norm was NaN or infinite, or a spike."""
    STORE_UNAVAILABLE = 20
    """The object store did not answer, in spite of retries."""
    PEER_LOST = 21
    """A collective failed or timed out, or another process of the job died."""
    CHECKPOINT_CONFLICT = 22
    """Another or a damaged checkpoint lies under this attempt's own key, or a later attempt of the stage has begun, so
    that what this one trains does not count any more. A new attempt number has keys of its own."""
    INTERRUPTED = 30
    """SIGTERM arrived; a checkpoint of the last whole step was committed within the grace period."""


DO_NOT_RETRY: frozenset[ExitCode] = frozenset(
    {ExitCode.INVALID_CONFIG, ExitCode.INVALID_CHECKPOINT, ExitCode.NON_FINITE_LOSS}
)


def is_retryable(code: int) -> bool:
    """Whether a new attempt may succeed after a container ended with `code` (0..255)."""
    return code not in DO_NOT_RETRY and code != ExitCode.SUCCESS


def explain(code: int) -> str:
    """One phrase for people: what a container's exit code means."""
    if code in ExitCode.__members__.values():
        return ExitCode(code).name.replace("_", " ").lower()
    if code > 128:
        return f"killed by signal {code - 128}"
    return f"crashed with exit code {code}"
