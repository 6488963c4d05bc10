"""A job as a person writes it: YAML or JSON with little in it, and from it the same JobConfig that an operator writes.

What a file may leave out or abbreviate, next to the fields that have defaults of their own:

- `model` may be a name of the catalogue.
- `run` is a new one each time, named after the file, but for what of it is given; `stage` is "train", `attempt` 1,
  `layout` one process, `trainable` everything.
- Relative paths (`data.meta`, `data.tokenizer`, `data.index`, `storage.uri`, and `annotation` and `root` of each data
  set of `data.mixture`) are relative to the file's folder.
"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import JobConfig

Key = tuple[str | int, ...]
"""Where a value stands in a document: ("optimization", "steps")."""

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
    places = _Places(path)
    document = places.read_json(text) if path.suffix == ".json" else places.read_yaml(text)
    for change in changes:
        key, value = parse_change(change)
        _put(document, key, value, change)
        places.changed[key] = change
    try:
        return JobConfig.model_validate(_completed(document, path, places, now))
    except ValidationError as error:
        found = error.errors()
        faults = [
            f"{places.of(fault['loc'])}: {'.'.join(map(str, fault['loc'])) or 'job'}: {_said(fault)}"
            for fault in found
            if not _follows(fault, found)
        ]
        raise JobFileError("\n".join(faults)) from error


def _said(fault: ErrorDetails) -> str:
    """What is wrong, in the terms of a job file."""
    if fault["type"] != "extra_forbidden":
        return fault["msg"]
    *sections, field = fault["loc"]
    fields = _fields(sections)
    near = difflib.get_close_matches(str(field), fields, n=1)
    return "no such field; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(fields)}")


def _fields(sections: Iterable[str | int]) -> list[str]:
    """The fields of the job, or of one of its sections. Keys of a mapping, such as init's, lead to its values."""
    found: type[BaseModel] = JobConfig
    for section in sections:
        if section in found.model_fields:
            annotation = found.model_fields[str(section)].annotation
            kinds = (annotation, *get_args(annotation))
            found = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(found.model_fields)


def _follows(fault: ErrorDetails, found: Iterable[ErrorDetails]) -> bool:
    """Whether a sequence is too short only because one of its items was refused."""
    place = fault["loc"]
    return fault["type"] == "too_short" and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in found
    )


class _Places:
    """Where each value of a document was written."""

    def __init__(self, path: Path) -> None:
        self.changed: dict[Key, str] = {}
        self._path = path
        self._lines: dict[Key, int] = {}

    def of(self, key: Sequence[str | int]) -> str:
        """File and line, or the change, that gave the value at `key` or the nearest one around it."""
        for length in range(len(key), 0, -1):
            prefix = tuple(key[:length])
            if prefix in self.changed:
                return f"--set {self.changed[prefix]}"
            if prefix in self._lines:
                return self._at(self._lines[prefix])
            below = [change for changed, change in self.changed.items() if changed[:length] == prefix]
            if below:
                return f"--set {below[0]}"
        return str(self._path)

    def read_yaml(self, text: str) -> dict[str, Any]:
        """The document, its lines noted."""
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is None:
                return self._mapping(None)
            self._note(node, ())
            return self._mapping(loader.construct_document(node))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = str(self._path) if mark is None else self._at(mark.line + 1, mark.column + 1)
            raise JobFileError(f"{where}: is no YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise JobFileError(f"{self._path}: is no YAML: {error}") from error

    def read_json(self, text: str) -> dict[str, Any]:
        """The document; JSON's reader tells lines of syntax errors alone."""
        try:
            return self._mapping(json.loads(text))
        except json.JSONDecodeError as error:
            raise JobFileError(f"{self._at(error.lineno, error.colno)}: is no JSON: {error.msg}") from error

    def _mapping(self, document: Any) -> dict[str, Any]:
        if not isinstance(document, dict):
            kind = "nothing" if document is None else f"a {type(document).__name__}"
            raise JobFileError(f"{self._path}: holds {kind}; a job is a mapping of fields such as model and data")
        return document

    def _note(self, node: yaml.Node, key: Key) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                below, line = (*key, name.value), name.start_mark.line + 1
                if below in self._lines:
                    first = self._lines[below]
                    raise JobFileError(
                        f"{self._at(line)}: {'.'.join(map(str, below))} was given in line {first} already"
                    )
                self._lines[below] = line
                self._note(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self._lines[*key, number] = value.start_mark.line + 1
                self._note(value, (*key, number))

    def _at(self, line: int, column: int | None = None) -> str:
        return f"{self._path}, line {line}" + (f", column {column}" if column else "")


def _completed(document: dict[str, Any], path: Path, places: _Places, now: datetime) -> dict[str, Any]:
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
