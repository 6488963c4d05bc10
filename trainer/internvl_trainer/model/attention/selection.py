"""Which attention back-end runs: pure decisions, from what is installed, the device, the dtype and the head dim."""

from collections.abc import Collection
from functools import partial
from typing import ClassVar, Literal

import torch

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import Attention

Backend = Literal["transformer-engine", "flash-attention-3", "flash-attention-2", "torch", "reference"]

PREFERENCE: tuple[Backend, ...] = ("transformer-engine", "flash-attention-3", "flash-attention-2", "torch")
"""Fastest first. `reference` is never chosen by itself; `torch` fits everything."""

FLASH_HEAD_DIM = 256
"""Widest head of any flash kernel."""

_HOW_TO_GET: dict[Backend, str] = {
    "transformer-engine": "install transformer-engine[pytorch], built for the image's CUDA (Dockerfile)",
    "flash-attention-3": "install flash_attn_3 from the folder hopper/ of flash-attn's source (Dockerfile)",
    "flash-attention-2": "install flash-attn 2.8 or newer, built for the image's torch (Dockerfile)",
}


class AttentionUnavailableError(ValueError):
    """A job asks for an attention back-end that cannot run here."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CONFIG

    def __init__(self, backend: Backend, problem: str) -> None:
        super().__init__(f"attention is {backend!r}, which cannot run here: {problem}; or set attention: auto")


def choose(
    wanted: Attention,
    available: Collection[Backend],
    *,
    device_type: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    head_dim: int,
) -> Backend:
    """The back-end for heads of one width.

    Args:
        wanted: the job's `attention`; `auto` takes the first of PREFERENCE that can run.
        available: back-ends whose packages are installed.
        device_type: "cuda" or "cpu".
        capability: of the CUDA device, as (major, minor); None without one.
        dtype: of queries, keys and values.
        head_dim: width of one head.

    Raises:
        AttentionUnavailableError: what is wanted cannot run; says what is missing and how to get it.
    """
    problem_of = partial(
        _problem, available=available, device_type=device_type, capability=capability, dtype=dtype, head_dim=head_dim
    )
    if wanted == "auto":
        return next(backend for backend in PREFERENCE if problem_of(backend) is None)
    if (problem := problem_of(wanted)) is not None:
        raise AttentionUnavailableError(wanted, problem)
    return wanted


def flash_fits(*, capability: tuple[int, int], dtype: torch.dtype, head_dim: int) -> str | None:
    """None where flash kernels take such tensors on such a CUDA device, else what keeps them from it."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it takes bfloat16 or float16 and the model is in {str(dtype).removeprefix('torch.')}"
    if head_dim > FLASH_HEAD_DIM or head_dim % 8:
        return f"its heads are multiples of 8 up to {FLASH_HEAD_DIM} wide and the model's are {head_dim} wide"
    if capability < (8, 0):
        return f"it needs compute capability 8.0 or newer and the GPU has {capability[0]}.{capability[1]}"
    return None


def _problem(
    backend: Backend,
    *,
    available: Collection[Backend],
    device_type: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    head_dim: int,
) -> str | None:
    """None where a back-end can run, else why it cannot."""
    if backend in ("torch", "reference"):
        return None
    if backend not in available:
        return f"its package is not installed; {_HOW_TO_GET[backend]}"
    if device_type != "cuda" or capability is None:
        return f"it runs on CUDA devices and the device is {device_type}"
    if backend == "flash-attention-3" and capability[0] != 9:
        return f"it runs on Hopper (compute capability 9) and the GPU has {capability[0]}.{capability[1]}"
    return flash_fits(capability=capability, dtype=dtype, head_dim=head_dim)
