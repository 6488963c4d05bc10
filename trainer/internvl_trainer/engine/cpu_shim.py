"""The only device shim: lets megatron.core run on CPU tensors where no CUDA device exists.

megatron.core has no device switch. It writes `device="cuda"` and `torch.cuda.current_device()` in many places, and
recognises floating point parameters by the type names of CUDA tensors. `install()` redirects exactly these names; it
changes nothing where CUDA is present. Everything else (process groups, schedules, optimizers, checkpoints) is
megatron.core's own code, unchanged.

Call `install()` before the first import of megatron.core: on CPU it also turns `torch.compile` into the identity,
so that megatron's jit decorators do not load the compiler (about 1.5 s of every process's start).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

_CPU = torch.device("cpu")

_FACTORIES = ("arange", "as_tensor", "empty", "full", "ones", "rand", "randn", "tensor", "zeros")
"""Functions by which megatron.core makes tensors on "cuda"."""

_CUDA_TYPE_NAMES = {
    "torch.FloatTensor": "torch.cuda.FloatTensor",
    "torch.BFloat16Tensor": "torch.cuda.BFloat16Tensor",
    "torch.HalfTensor": "torch.cuda.HalfTensor",
}

_MARK = "_internvl_cpu_shim"


def is_needed() -> bool:
    """Whether this process has no CUDA device."""
    return not torch.cuda.is_available()


def install() -> bool:
    """Redirect megatron.core's CUDA names to the CPU, once per process.

    Returns:
        True where the redirections are in place, False where CUDA is present and nothing was touched.
    """
    if not is_needed():
        return False
    if getattr(torch.cuda, _MARK, False):
        return True
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    setattr(torch.cuda, "current_device", lambda: _CPU)  # noqa: B010  (mypy: assigning to a method)
    setattr(torch.cuda, "current_stream", lambda device=None: None)  # noqa: B010  (asked for, not used)
    setattr(torch.cuda, "synchronize", lambda device=None: None)  # noqa: B010
    setattr(torch.Tensor, "cuda", lambda self, *args, **kwargs: self)  # noqa: B010
    setattr(torch.Tensor, "type", _type_with_cuda_names(torch.Tensor.type))  # noqa: B010
    setattr(torch, "compile", _no_compiler)  # noqa: B010
    setattr(torch.cuda, _MARK, True)
    _redirect_recompute_rng()
    return True


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = _CPU
        return factory(*args, **kwargs)

    return make


def _type_with_cuda_names(type_of: Callable[..., Any]) -> Callable[..., Any]:
    """`Tensor.type()` that answers as a CUDA tensor would: the optimizers sort parameters by that name."""

    @functools.wraps(type_of)
    def answer(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        name = type_of(self, *args, **kwargs)
        return _CUDA_TYPE_NAMES.get(name, name) if isinstance(name, str) else name

    return answer


def _no_compiler(model: Any = None, **_: Any) -> Any:
    """`torch.compile` as the identity, with and without arguments."""
    return model if model is not None else (lambda function: function)


def _redirect_recompute_rng() -> None:
    """Activation recompute saves and restores the device's random state: on CPU that is the CPU's."""
    from megatron.core.tensor_parallel import random as megatron_random

    setattr(megatron_random, "_get_cuda_rng_state", lambda *_, **__: torch.get_rng_state())  # noqa: B010
    setattr(megatron_random, "_set_cuda_rng_state", lambda state, *_, **__: torch.set_rng_state(state))  # noqa: B010
