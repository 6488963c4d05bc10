"""Documents that people write, in YAML or JSON, with the line of every value: a fault is told where it was written."""

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Key = tuple[str | int, ...]
"""Where a value stands in a document: ("optimization", "steps")."""


_OF_A_WORD = frozenset({"int_parsing", "float_parsing", "bool_parsing", "literal_error", "enum"})
"""Faults of values that can be shown: other texts, such as URLs, may hold credentials."""


class Places:
    """Where each value of a document was written.

    Args:
        path: of the document.
        error: what to raise when it cannot be read.
        expected: what the document should hold, for people.
    """

    def __init__(self, path: Path, error: type[ValueError], expected: str) -> None:
        self.changed: dict[Key, str] = {}
        self._path = path
        self._error = error
        self._expected = expected
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

    def explain(self, error: ValidationError, model: type[BaseModel]) -> str:
        """What is wrong with the document, a line each: where, which field, and why."""
        found = error.errors()
        return "\n".join(
            ": ".join(filter(None, (self.of(fault["loc"]), ".".join(map(str, fault["loc"])), _said(fault, model))))
            for fault in found
            if not _follows(fault, found)
        )

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
            raise self._error(f"{where}: is no YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise self._error(f"{self._path}: is no YAML: {error}") from error

    def read_json(self, text: str) -> dict[str, Any]:
        """The document; JSON's reader tells lines of syntax errors alone."""
        try:
            return self._mapping(json.loads(text))
        except json.JSONDecodeError as error:
            raise self._error(f"{self._at(error.lineno, error.colno)}: is no JSON: {error.msg}") from error

    def _mapping(self, document: Any) -> dict[str, Any]:
        if not isinstance(document, dict):
            kind = "nothing" if document is None else f"a {type(document).__name__}"
            raise self._error(f"{self._path}: holds {kind}; {self._expected}")
        return document

    def _note(self, node: yaml.Node, key: Key) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                below, line = (*key, name.value), name.start_mark.line + 1
                if below in self._lines:
                    first = self._lines[below]
                    raise self._error(
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


def _said(fault: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong, in the terms of the document."""
    if fault["type"] != "extra_forbidden":
        return _refused(fault)
    *sections, field = fault["loc"]
    fields = _fields(sections, model)
    near = difflib.get_close_matches(str(field), fields, n=1)
    return "no such field; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(fields)}")


def _refused(fault: ErrorDetails) -> str:
    """Why a value was refused, and the value where it is a number or should be one of a few words."""
    said, value = fault["msg"].removeprefix("Value error, "), fault["input"]
    tells = isinstance(value, int | float) and fault["type"] != "value_error"
    return f"{said}, not {value!r}" if tells or fault["type"] in _OF_A_WORD else said


def _fields(sections: Iterable[str | int], model: type[BaseModel]) -> list[str]:
    """The fields of the document, or of one of its sections. Keys of a mapping, such as init's, lead to its values."""
    found = model
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
