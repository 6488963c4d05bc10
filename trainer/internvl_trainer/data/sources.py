"""Which data sets a stage trains on: InternVL's meta JSON, or a mixture in the job's own configuration."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from internvl_trainer.contract.job import DataConfig, MixtureSource
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.media import read_text_object
from internvl_trainer.data.reference_order import reference_repeat
from internvl_trainer.storage import ObjectStore


def _positive_number(value: Any) -> int | float:
    """A repeat keeps the form it was written in: the released trainer tells 2 from 2.0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"must be a finite number above 0, is {value!r}; to leave a data set out, delete its entry")
    return value  # type: ignore[no-any-return]


class SourceSpec(BaseModel):
    """One entry of the meta JSON, in the fields that InternVL defines. An unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    root: str = Field(default="", description="folder of the media; relative to the meta JSON")
    annotation: str = Field(description="the JSONL file; relative to the meta JSON")
    data_augment: bool = Field(default=False, description="one JPEG pass per tile, at a random quality of 75..100")
    max_dynamic_patch: int | None = Field(default=None, ge=1, description="n_max of this data set")
    repeat_time: Annotated[int | float, BeforeValidator(_positive_number)] = Field(
        default=1, description="passes over the data set in one epoch, fractions included"
    )
    length: int | None = Field(default=None, description="informative only")


class Source(SourceSpec):
    """A data set with its name and full URIs."""

    name: str
    number: int = Field(description="0-based position in the meta JSON")


def read_sources(data: DataConfig, store: ObjectStore) -> tuple[Source, ...]:
    """The data sets that a configuration names, by its meta JSON or one by one.

    Raises:
        MetaError: the meta JSON or the mixture is wrong; says where.
        StoreError: the store did not answer.
    """
    if data.meta is None:
        sources = from_mixture(data.mixture)
    else:
        sources = parse_meta(read_text_object(store, data.meta, "meta"), uri=data.meta)
    if data.repeat_mode == "reference":
        for source in sources:
            try:
                reference_repeat(1, source.repeat_time)
            except MetaError as error:
                raise MetaError(f"data set {source.name!r}: {error}") from error
    return sources


def parse_meta(payload: bytes, *, uri: str) -> tuple[Source, ...]:
    """The data sets of a meta JSON, in its order, with paths resolved against the folder of `uri`.

    Raises:
        MetaError: no JSON object, a name or a field used twice, no data set, a wrong or unknown field, an annotation
            that is no .jsonl file, a URI that cannot be read. Names the file and the line.
    """
    try:
        text = payload.decode("utf-8-sig")
        entries = json.loads(text)
    except UnicodeDecodeError as error:
        raise MetaError(f"meta {uri} is not UTF-8 text: {error}") from error
    except json.JSONDecodeError as error:
        raise MetaError(f"meta {uri} line {error.lineno} column {error.colno}: not valid JSON: {error.msg}") from error
    if not isinstance(entries, dict) or not entries:
        raise MetaError(f"meta {uri} must be a JSON object with at least one data set")
    members = list(_members(text, text.index("{")))
    _check_unique([(member.name, member.line) for member in members], f"meta {uri}", "data set names")
    return tuple(_source(number, member, text, uri) for number, member in enumerate(members))


def from_mixture(mixture: Sequence[MixtureSource]) -> tuple[Source, ...]:
    """The data sets of a mixture, in its order.

    Raises:
        MetaError: a name used twice, an annotation that is no .jsonl file, a URI that cannot be read.
    """
    names = [entry.name for entry in mixture]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise MetaError(f"the mixture names {', '.join(repeated)} more than once; names must be unique")
    return tuple(_mixed(number, entry) for number, entry in enumerate(mixture))


def join(folder: str, path: str) -> str:
    """`path` inside `folder`; a path that is absolute or has a scheme of its own stays as it is.

    The released trainer joins the same way, but for a path that begins with s3://: it writes the root in front of it.
    """
    if "://" in path or path.startswith("/"):
        return path
    path = path.removeprefix("./")
    return f"{folder.rstrip('/')}/{path}" if path else folder


def _mixed(number: int, entry: MixtureSource) -> Source:
    _check_place(f"data set {entry.name!r} of the mixture", entry.annotation, entry.root)
    return Source(
        name=entry.name,
        number=number,
        annotation=entry.annotation,
        root=entry.root or entry.annotation.rpartition("/")[0] or ".",
        data_augment=entry.augment,
        max_dynamic_patch=entry.max_tiles,
        # A mixture comes from a Kubernetes object, which does not tell 2 from 2.0.
        repeat_time=int(entry.repeat) if entry.repeat.is_integer() else entry.repeat,
    )


def _source(number: int, member: "_Member", text: str, uri: str) -> Source:
    what = f"data set {member.name!r} of meta {uri}"
    if not isinstance(member.value, dict):
        raise MetaError(f"{what} line {member.line}: must be a JSON object, is {type(member.value).__name__}")
    fields = list(_members(text, member.begin))
    lines = {field.name: field.line for field in fields}
    _check_unique([(field.name, field.line) for field in fields], what, "fields")
    try:
        spec = SourceSpec.model_validate(member.value)
    except ValidationError as error:
        raise MetaError("; ".join(_fault(what, member.line, lines, fault) for fault in error.errors())) from error
    _check_place(f"{what} line {lines['annotation']}", spec.annotation, spec.root)
    folder = uri.rpartition("/")[0] or "."
    paths = {"annotation": join(folder, spec.annotation), "root": join(folder, spec.root)}
    return Source(name=member.name, number=number, **(spec.model_dump() | paths))


def _fault(what: str, line: int, lines: dict[str, int], fault: Any) -> str:
    field = str(fault["loc"][0])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = f"unknown; a data set has {', '.join(SourceSpec.model_fields)}"
    return f"{what} line {lines.get(field, line)}: {field}: {message}"


_CLUSTER = re.compile(r"^(?P<cluster>[\w.-]+):(?P<uri>s3://.*)?$")


def _check_place(what: str, annotation: str, root: str) -> None:
    for field, uri in (("annotation", annotation), ("root", root)):
        _check_uri(what, field, uri)
    if not annotation.endswith(".jsonl"):
        raise MetaError(
            f"{what}: annotation is {annotation!r}; must be a .jsonl file, one JSON object a line, uncompressed"
        )


def _check_uri(what: str, field: str, uri: str) -> None:
    if petrel := _CLUSTER.match(uri):
        plain = petrel["uri"] or ""
        instead = f"write {plain!r}" if plain else f"leave {field} out and write whole s3:// URIs in the records"
        raise MetaError(
            f"{what}: {field} is {uri!r}: a cluster's name before the URI is not understood; {instead}. The store's "
            "address is part of the run's storage"
        )
    scheme, separator, path = uri.partition("://")
    if separator and scheme not in ("s3", "file"):
        instead = f"write 's3://{path}'" if scheme in ("s3a", "s3n") else "copy the data to a store that speaks S3"
        raise MetaError(
            f"{what}: {field} is {uri!r}: {scheme}:// cannot be read, but s3://, file:// or a path; {instead}"
        )


class _Member(NamedTuple):
    """One name and value of a JSON object, with where they stand in its text."""

    name: str
    line: int
    """1-based line of the name."""
    value: Any
    begin: int
    """Offset of the value."""


_BEFORE_NAME = re.compile(r"[ \t\r\n,]*")
_BEFORE_VALUE = re.compile(r"[ \t\r\n:]*")


def _members(text: str, begin: int) -> Iterator[_Member]:
    """The members of the object at an offset of valid JSON. (The json module tells neither lines nor repetition.)"""
    decoder = json.JSONDecoder()
    place = _end(_BEFORE_NAME, text, begin + 1)
    while text[place] != "}":
        line = text.count("\n", 0, place) + 1
        name, place = decoder.raw_decode(text, place)
        start = _end(_BEFORE_VALUE, text, place)
        value, place = decoder.raw_decode(text, start)
        yield _Member(name, line, value, start)
        place = _end(_BEFORE_NAME, text, place)


def _end(pattern: re.Pattern[str], text: str, begin: int) -> int:
    """Where what the pattern matches at an offset ends; patterns here match at least nothing."""
    match = pattern.match(text, begin)
    assert match
    return match.end()


def _check_unique(names: list[tuple[str, int]], what: str, kind: str) -> None:
    lines: dict[str, list[int]] = {}
    for name, line in names:
        lines.setdefault(name, []).append(line)
    if repeated := {name: found for name, found in lines.items() if len(found) > 1}:
        found = "; ".join(f"{name} in lines {', '.join(map(str, places))}" for name, places in repeated.items())
        raise MetaError(f"{what} names {found} more than once; {kind} must be unique")
