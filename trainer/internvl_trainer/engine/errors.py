"""Why a training step, or the start of training, cannot go on. Each type names the exit code it leads to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.memory import MemoryProblem


class EngineError(RuntimeError):
    """Base of the errors that the engine raises on purpose."""

    exit_code: ClassVar[ExitCode]


class NonFiniteLossError(EngineError):
    """Loss or gradient norm is NaN or infinite; all ranks stop before the optimizer step."""

    exit_code = ExitCode.NON_FINITE_LOSS

    def __init__(self, step: int, loss: float, grad_norm: float, packs: tuple[int, ...]) -> None:
        super().__init__(
            f"step {step}: loss {loss}, gradient norm {grad_norm}; no parameter was changed. Packs of this rank: "
            f"{', '.join(map(str, packs))}. Look at the data of these packs, and start a new run with a lower peak "
            "learning rate, or one whose spec.weights names the manifest of an earlier step"
        )


class NothingSupervisedError(EngineError):
    """A global batch in which no token carries loss weight: its loss is undefined."""

    exit_code = ExitCode.INVALID_CONFIG

    def __init__(self, step: int, packs: tuple[int, ...]) -> None:
        super().__init__(
            f"step {step}: no token of the global batch has loss weight (packs of this rank: "
            f"{', '.join(map(str, packs))}); check that the data has assistant turns, or use a larger global_batch"
        )


class PeerRejectedBatchError(EngineError):
    """Another data-parallel rank found its packs unusable; its own log says why."""

    exit_code = ExitCode.INVALID_CONFIG

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step}: another rank rejected its packs; see that rank's log for the sample's name")


class WorldSizeError(EngineError):
    """The processes that were started are not as many as the layout needs."""

    exit_code = ExitCode.INVALID_CONFIG

    def __init__(self, world: int, layout: str, needed: int) -> None:
        super().__init__(f"{world} processes were started, but the layout {layout} needs {needed}")


class DeviceMemoryError(EngineError):
    """A pipeline stage needs more memory than its devices have, by estimate; nothing has been built."""

    exit_code = ExitCode.INVALID_CONFIG

    def __init__(self, problem: MemoryProblem) -> None:
        super().__init__(str(problem))


class PeerLostError(EngineError):
    """A collective failed: another process of the job died, or the network between them did."""

    exit_code = ExitCode.PEER_LOST


def is_peer_loss(error: BaseException) -> bool:
    """Whether an exception out of torch.distributed means that a peer is gone.

    NCCL, the store and the network have types of their own; gloo raises plain RuntimeErrors that name its source.
    """
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextmanager
def lost_peers_named(activity: str) -> Iterator[None]:
    """Inside, what means that a peer is gone comes out as PeerLostError, saying what this process was doing."""
    try:
        yield
    except RuntimeError as error:
        if not is_peer_loss(error):
            raise
        raise PeerLostError(f"lost a peer during {activity}: {error}") from error
