"""Which component a tensor belongs to, and which component's geometry must agree: pure."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from internvl_trainer.checkpoint.errors import GeometryMismatchError, UnknownTensorError
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.tensors import prefix_of

OPTIMIZER = "optimizer"
STATE = "state"

_PREFIXES = {
    **{prefix_of(component): component for component in Component},
    "optimizer.": OPTIMIZER,
    # What a state dict holds besides tensors; megatron.core keeps it as one sharded object of this name.
    "common_state": STATE,
}


def component_of(name: str) -> str:
    """The component that owns a sharded tensor or object: a `Component`, "optimizer" or "state".

    Raises:
        UnknownTensorError: names the tensor and the prefixes that exist.
    """
    for prefix, component in _PREFIXES.items():
        if name.startswith(prefix):
            return str(component)
    raise UnknownTensorError(f"tensor {name!r} belongs to no component; names begin with {', '.join(_PREFIXES)}")


def components_in(file: str) -> tuple[str, ...]:
    """Which component a shard file has tensors of, by its name; none for what every loader needs."""
    owner = file.partition("__")[0]
    return (owner,) if owner in {*Component, OPTIMIZER} else ()


def by_component(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Sorted names under each component that has any, the form of `Manifest.components`."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        grouped[component_of(name)].append(name)
    return {component: tuple(owned) for component, owned in sorted(grouped.items())}


def shape_of(component: Component, model: ModelGeometry) -> dict[str, Any]:
    """All that decides a component's tensors and what they compute; not how they were initialised."""
    vision = model.vision.model_dump(exclude={"layer_scale_init"})
    language = model.language.model_dump()
    if component is Component.VISION:
        return vision
    if component is Component.LANGUAGE:
        return language
    return {
        "vision.hidden": model.vision.hidden,
        "language.hidden": model.language.hidden,
        "downsample_ratio": model.downsample_ratio,
        "projector_norm_eps": model.projector_norm_eps,
    }


def check_same_shape(component: Component, *, source: ModelGeometry, target: ModelGeometry, uri: str) -> None:
    """Compare a component of the checkpoint at `uri` with the job's model.

    Raises:
        GeometryMismatchError: names the fields that differ, and gives both geometries.
    """
    theirs, ours = shape_of(component, source), shape_of(component, target)
    different = [field for field in ours if theirs[field] != ours[field]]
    if different:
        raise GeometryMismatchError(
            f"component {component} of {uri} differs in {', '.join(different)}: "
            f"the checkpoint ({source.name}) has {theirs}, the job ({target.name}) wants {ours}; "
            f"start from a checkpoint of the same {component} geometry"
        )
