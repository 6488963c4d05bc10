"""Why a training step, or the start of training, cannot go on. Each type names the exit code it leads to."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.memory import MemoryProblem

_NAMED = 5
"""Packs that an error names at most where it picks the worst."""


class EngineError(RuntimeError):
    """Base of the errors that the engine raises on purpose."""

    exit_code: ClassVar[ExitCode]


class RefusedStepError(EngineError):
    """A step that all ranks agreed not to take, before any parameter changed; raised alike on all of them."""

    exit_code = ExitCode.NON_FINITE_LOSS

    remedy = (
        "Look at the data of these packs, and start a new run with a lower peak learning rate, or one whose "
        "spec.weights names the manifest of an earlier step"
    )


class NonFiniteLossError(RefusedStepError):
    """Loss or gradient norm is NaN or infinite.

    Args:
        step: 0-based.
        loss: of the global batch.
        grad_norm: before clipping.
        packs: each pack of the global batch with its share of the loss.
        cause: where the first value that is not finite was found; None where a second look found none.
    """

    def __init__(self, step: int, loss: float, grad_norm: float, packs: Mapping[int, float], cause: str | None) -> None:
        bad = [pack for pack, share in packs.items() if not math.isfinite(share)]
        where = cause or (
            "a second forward pass over the same packs and all gradients were finite, which points at the machine"
        )
        concerned = (
            f"Packs whose loss is not finite: {ranges(bad)}"
            if bad
            else f"The loss of each pack is finite; the step's packs: {ranges(packs)}"
        )
        super().__init__(
            f"step {step}: loss {loss}, gradient norm {grad_norm}; no parameter was changed. "
            f"Cause: {where}. {concerned}. {self.remedy}"
        )


class LossSpikeError(RefusedStepError):
    """The loss is further above that of the last steps than `optimization.spike_limit` allows."""

    def __init__(self, step: int, loss: float, limit: float, packs: Mapping[int, float]) -> None:
        largest = sorted(packs, key=lambda pack: packs[pack], reverse=True)[:_NAMED]
        shares = ", ".join(f"{pack} ({packs[pack]:.4g})" for pack in largest)
        super().__init__(
            f"step {step}: loss {loss:.4g} is above {limit:.4g}, optimization.spike_limit times the mean of the last "
            f"steps; no parameter was changed. Packs with the largest shares of it: {shares}. {self.remedy}; or raise "
            "spike_limit"
        )


def ranges(packs: Iterable[int]) -> str:
    """Numbers in ascending order, runs of neighbours as `first-last`: a global batch has hundreds of packs."""
    runs: list[list[int]] = []
    for pack in sorted(packs):
        if runs and pack == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], pack]
        else:
            runs.append([pack])
    return ", ".join("-".join(map(str, run)) for run in runs)


class NothingSupervisedError(EngineError):
    """A global batch in which no token carries loss weight: its loss is undefined."""

    exit_code = ExitCode.INVALID_CONFIG

    def __init__(self, step: int, packs: tuple[int, ...], skipped: int) -> None:
        cause = f"; {skipped} of its samples could not be read and are left out" if skipped else ""
        super().__init__(
            f"step {step}: no token of the global batch has loss weight (packs of this rank: "
            f"{', '.join(map(str, packs))}){cause}; check that the data has assistant turns and that its images can "
            "be read (internvl data check), or use a larger global_batch"
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
