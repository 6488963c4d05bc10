"""Laying one pod template over another: the few rules of a strategic merge that a PodSpec needs.

- A mapping is merged field by field; a field whose overlay is null is removed.
- The lists of `MERGE_KEYS` are merged by the key named there: containers into each other, items of the other lists by
  replacement, so that a volume does not end with two sources and a variable not with two values.
- Every other list, and every scalar, is replaced.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MERGE_KEYS: dict[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "env": "name",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""List fields that are merged by a key, wherever they occur."""

_MERGED_ITEMS = frozenset({"containers", "initContainers"})


class OverlayError(ValueError):
    """An overlay that cannot be merged: the path and what is wrong there."""


def lay_over(base: Mapping[str, Any], overlay: Mapping[str, Any], path: str = "podTemplate") -> dict[str, Any]:
    """`base` with `overlay` on top; neither is changed.

    Raises:
        OverlayError: an item of a keyed list is no mapping or lacks its key.
    """
    merged = dict(base)
    for name, value in overlay.items():
        where = f"{path}.{name}"
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            below = merged.get(name)
            merged[name] = lay_over(below if isinstance(below, Mapping) else {}, value, where)
        elif name in MERGE_KEYS and isinstance(value, Sequence) and not isinstance(value, str):
            merged[name] = _merge_list(merged.get(name) or [], value, name, where)
        else:
            merged[name] = value
    return merged


def _merge_list(base: Sequence[Any], overlay: Sequence[Any], name: str, path: str) -> list[Any]:
    key = MERGE_KEYS[name]
    merged = {item[key]: item for item in base}
    for index, item in enumerate(overlay):
        if not isinstance(item, Mapping) or key not in item:
            raise OverlayError(f"{path}[{index}] needs the field {key!r}, by which this list is merged")
        below = merged.get(item[key], {}) if name in _MERGED_ITEMS else {}
        merged[item[key]] = lay_over(below, item, f"{path}[{item[key]}]")
    return list(merged.values())
