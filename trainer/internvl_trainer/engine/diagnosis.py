"""Where a number first stopped being finite: found after the ranks have agreed not to take a step.

Parameters are looked at first, since a spoilt one spoils whatever follows; then the forward pass is run again and
watched; then, if all of that is finite, the gradients. What a forward pass computes is a pure function of parameters,
packs and step, drop path included, so the second one meets what the first one met.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NamedTuple

import torch

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.tensors import MODULES

HEAD = f"{MODULES[Component.LANGUAGE]}.output_layer"
CONTAINERS = ("", MODULES[Component.LANGUAGE])
"""Modules whose output is the loss: what they add to their parts is the head's product and the cross entropy."""


class Kind(IntEnum):
    """What is not finite, causes before their effects."""

    PARAMETER = 0
    ACTIVATION = 1
    GRADIENT = 2


class Fault(NamedTuple):
    """Something that is not finite, as one rank saw it. The smallest fault of all ranks is the one to name.

    `order` sorts by pipeline stage, then by place in the stage, each counted from where a fault of this kind starts
    to spread: from the first layer on, and for gradients from the loss back.
    """

    kind: Kind
    order: tuple[int, ...]
    description: str


def first_fault(
    model: torch.nn.Module, stage: int, packs: Sequence[int], forward: Callable[[], Sequence[torch.Tensor]]
) -> Fault | None:
    """This rank's first fault, or None where all that it holds and computes is finite. Collective through `forward`.

    Args:
        model: this rank's part of the model, with the gradients of the step that was refused in `main_grad`.
        stage: this rank's place in the pipeline, 0-based.
        packs: numbers of this rank's packs, in micro-batch order.
        forward: runs the forward pass of the step again; returns the packs' losses on the last stage.
    """
    spoilt = _spoilt_parameter(model, stage)
    with torch.no_grad(), _watched(model, stage, packs) as faults:
        losses = forward()
    for number, loss in enumerate(losses):
        if not _is_finite(loss):
            faults.append(
                Fault(
                    Kind.ACTIVATION,
                    (stage, sys.maxsize, number),
                    f"{HEAD} is the first module whose output, or the loss made of it, is not finite, "
                    f"in pack {packs[number]}",
                )
            )
    return earliest([spoilt, *faults, _spoilt_gradient(model, stage)])


def earliest(faults: Iterable[Fault | None]) -> Fault | None:
    """The fault that comes first, of one rank or of all; the first of equal ones."""
    return min((fault for fault in faults if fault), key=lambda fault: (fault.kind, fault.order), default=None)


def global_names(model: torch.nn.Module) -> dict[str, str]:
    """Qualified name of each module in the whole model by its name on this stage: layers have their global number."""
    names: dict[str, str] = {}
    for local, module in model.named_modules():
        parent, _, own = local.rpartition(".")
        if own.isdigit() and hasattr(module, "layer_number"):
            own = str(module.layer_number - 1)
        names[local] = f"{names[parent]}.{own}" if parent else own
    return names


def _spoilt_parameter(model: torch.nn.Module, stage: int) -> Fault | None:
    for place, (name, parameter) in enumerate(_named_parameters(model)):
        if not _is_finite(parameter):
            return Fault(Kind.PARAMETER, (stage, place), f"parameter {name} holds a value that is not finite")
    return None


def _spoilt_gradient(model: torch.nn.Module, stage: int) -> Fault | None:
    for place, (name, parameter) in enumerate(reversed(list(_named_parameters(model)))):
        gradient = getattr(parameter, "main_grad", None)
        if gradient is not None and not _is_finite(gradient):
            return Fault(
                Kind.GRADIENT,
                (-stage, place),
                f"the forward pass is finite; of the gradients that are not, that of {name} is closest to the loss",
            )
    return None


@contextmanager
def _watched(model: torch.nn.Module, stage: int, packs: Sequence[int]) -> Iterator[list[Fault]]:
    """Inside, each forward pass of `model` adds the first value that is not finite to the list, if there is one."""
    faults: list[Fault] = []
    started = calls = 0
    found: set[int] = set()

    def begin(*_: Any) -> None:
        nonlocal started, calls
        started, calls = started + 1, 0

    def look(name: str, inputs: Any, output: Any) -> None:
        nonlocal calls
        calls += 1
        micro_batch = started - 1
        if micro_batch in found or (_is_finite(inputs) and _is_finite(output)):
            return
        found.add(micro_batch)
        what = (
            f"{name} is the first module whose output is not finite"
            if _is_finite(inputs)
            else f"the input of {name} is the first value that is not finite"
        )
        faults.append(Fault(Kind.ACTIVATION, (stage, calls, micro_batch), f"{what}, in pack {packs[micro_batch]}"))

    def looking(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs, output: look(name, (args, kwargs), output)

    names = global_names(model)
    hooks = [model.register_forward_pre_hook(begin)]
    for local, module in model.named_modules():
        if local not in CONTAINERS:
            # Hooks run as modules end, innermost first: the first that fires is the closest to the cause.
            hooks.append(module.register_forward_hook(looking(names[local]), with_kwargs=True))
    try:
        yield faults
    finally:
        for hook in hooks:
            hook.remove()


def _named_parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """In the order of the forward pass, under the names of the whole model."""
    names = global_names(model)
    for local, parameter in model.named_parameters():
        module, _, own = local.rpartition(".")
        yield f"{names[module]}.{own}", parameter


def _is_finite(value: Any) -> bool:
    """Whether all floating point tensors inside nested tuples, lists and dicts are."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_is_finite, value))
