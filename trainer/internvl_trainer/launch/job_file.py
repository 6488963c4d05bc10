"""A job as a person writes it: YAML or JSON with little in it, and from it the same JobConfig that an operator writes.

What a file may leave out or abbreviate, next to the fields that have defaults of their own:

- `model` may be a name of the catalogue.
- `run` is a new one each time, named after the file, but for what of it is given; `stage` is "train", `attempt` 1,
  `layout` one process, `trainable` everything.
- Relative paths (`data.meta`, `data.tokenizer`, `data.index`, `storage.uri`, and `annotation` and `root` of each data
  set of `data.mixture`) are relative to the file's folder.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.launch.places import Key, Places

_PATHS = (("data", "meta"), ("data", "tokenizer"), ("data", "index"), ("storage", "uri"))
_PATHS_OF_A_SOURCE = ("annotation", "root")


class JobFileError(ValueError):
    """A file, or a change to it from the command line, that is no job; says where and why."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CONFIG


def read_job(path: Path, changes: Iterable[str] = (), *, now: datetime) -> JobConfig:
    """The job that a file describes.

    Args:
        path: YAML, or JSON where the name ends in `.json`.
        changes: `optimization.steps=10`: values that replace the file's, in YAML.
        now: makes the run's UID, where the file does not give one.

    Raises:
        JobFileError: unreadable, a syntax error, an unknown field or model, a wrong value; all with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobFileError(f"job file {path} cannot be read: {error}") from error
    places = Places(path, JobFileError, "a job is a mapping of fields such as model and data")
    document = places.read_json(text) if path.suffix == ".json" else places.read_yaml(text)
    for change in changes:
        key, value = parse_change(change)
        _put(document, key, value, change)
        places.changed[key] = change
    try:
        return JobConfig.model_validate(_completed(document, path, places, now))
    except ValidationError as error:
        raise JobFileError(places.explain(error, JobConfig)) from error


def _completed(document: dict[str, Any], path: Path, places: Places, now: datetime) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9-]+", "-", path.stem.lower()).strip("-") or "job"
    run = {"uid": f"{name}-{now:%Y%m%d-%H%M%S}", "namespace": "local", "name": name}
    complete: dict[str, Any] = {
        "run": run,
        "stage": "train",
        "attempt": 1,
        "layout": {},
        "trainable": list(Component),
    } | document
    if isinstance(complete["run"], dict):
        complete["run"] = run | complete["run"]
    if isinstance(complete.get("model"), str):
        try:
            complete["model"] = catalog.get(complete["model"]).model_dump()
        except catalog.UnknownModelError as error:
            raise JobFileError(f"{places.of(('model',))}: {error}") from error
    for section, field in _PATHS:
        if section in complete:
            complete[section] = _located(complete[section], (field,), path.parent)
    data = complete.get("data")
    if isinstance(data, dict) and isinstance(data.get("mixture"), list):
        sources = [_located(source, _PATHS_OF_A_SOURCE, path.parent) for source in data["mixture"]]
        complete["data"] = data | {"mixture": sources}
    return complete


def _located(values: Any, fields: Iterable[str], folder: Path) -> Any:
    """A section whose paths are absolute. An empty path says that there is none, and stays."""
    if not isinstance(values, dict):
        return values
    return values | {field: from_folder(values[field], folder) for field in fields if _is_path(values.get(field))}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def from_folder(location: str, folder: Path) -> str:
    """A path or file:// URI, made absolute by way of `folder`; other URIs as they are."""
    scheme, separator, rest = location.rpartition("://")
    return location if scheme not in ("", "file") else f"{scheme}{separator}{(folder / rest).resolve()}"


def parse_change(change: str) -> tuple[Key, Any]:
    """A change from the command line, `field.field=value` with the value in YAML.

    Raises:
        JobFileError: it is not of that form.
    """
    name, separator, value = change.partition("=")
    if not separator or not all(name.split(".")):
        raise JobFileError(f"--set {change}: is not of the form field.field=value")
    try:
        return tuple(name.split(".")), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise JobFileError(f"--set {change}: {value!r} is no YAML value: {error}") from error


def _put(document: dict[str, Any], key: Key, value: Any, change: str) -> None:
    *sections, field = map(str, key)
    for depth, section in enumerate(sections, 1):
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise JobFileError(f"--set {change}: {'.'.join(sections[:depth])} is {document!r}, which has no fields")
    document[field] = value
