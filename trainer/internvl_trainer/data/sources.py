"""The meta JSON: which data sets a stage trains on, and how often each is drawn."""

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from internvl_trainer.contract.job import DataConfig, MixtureSource
from internvl_trainer.data import seeding
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.media import read_text_object
from internvl_trainer.storage import ObjectStore


class SourceSpec(BaseModel):
    """One entry of the meta JSON, in the fields that InternVL defines. An unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str = Field(default="", description="folder of the media; relative to the meta JSON")
    annotation: str = Field(description="the JSONL file; relative to the meta JSON")
    data_augment: bool = Field(default=False, description="one JPEG pass per tile, at a random quality of 75..100")
    max_dynamic_patch: int | None = Field(default=None, ge=1, description="n_max of this data set")
    repeat_time: float = Field(default=1.0, gt=0, description="passes over the data set in one epoch")
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
        return from_mixture(data.mixture)
    return parse_meta(read_text_object(store, data.meta, "meta"), uri=data.meta)


def parse_meta(payload: bytes, *, uri: str) -> tuple[Source, ...]:
    """The data sets of a meta JSON, in its order, with paths resolved against the folder of `uri`.

    Raises:
        MetaError: no JSON object, a name used twice, no data set, a wrong or unknown field, no .jsonl annotation.
    """
    try:
        entries = json.loads(payload, object_pairs_hook=_unique_names(uri))
    except ValueError as error:
        if isinstance(error, MetaError):
            raise
        raise MetaError(f"meta {uri} is not valid JSON: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise MetaError(f"meta {uri} must be a JSON object with at least one data set")
    return tuple(_source(name, number, entry, uri) for number, (name, entry) in enumerate(entries.items()))


def from_mixture(mixture: Sequence[MixtureSource]) -> tuple[Source, ...]:
    """The data sets of a mixture, in its order.

    Raises:
        MetaError: a name used twice, no .jsonl annotation.
    """
    names = [entry.name for entry in mixture]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise MetaError(f"the mixture names {', '.join(repeated)} more than once; names must be unique")
    return tuple(_mixed(number, entry) for number, entry in enumerate(mixture))


def _mixed(number: int, entry: MixtureSource) -> Source:
    _check_suffix(f"data set {entry.name!r} of the mixture", entry.annotation)
    return Source(
        name=entry.name,
        number=number,
        annotation=entry.annotation,
        root=entry.root or entry.annotation.rpartition("/")[0] or ".",
        data_augment=entry.augment,
        max_dynamic_patch=entry.max_tiles,
        repeat_time=entry.repeat,
    )


def _check_suffix(what: str, annotation: str) -> None:
    if not annotation.endswith(".jsonl"):
        raise MetaError(f"{what}: annotation is {annotation!r}; must be a .jsonl file")


def _source(name: str, number: int, entry: Any, uri: str) -> Source:
    try:
        spec = SourceSpec.model_validate(entry)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())
        raise MetaError(f"data set {name!r} of meta {uri}: {faults}") from error
    _check_suffix(f"data set {name!r} of meta {uri}", spec.annotation)
    folder = uri.rpartition("/")[0] or "."
    paths = {"annotation": join(folder, spec.annotation), "root": join(folder, spec.root)}
    return Source(name=name, number=number, **(spec.model_dump() | paths))


def join(folder: str, path: str) -> str:
    """`path` inside `folder`; a path that is absolute or has a scheme of its own stays as it is."""
    if "://" in path or path.startswith("/"):
        return path
    path = path.removeprefix("./")
    return f"{folder.rstrip('/')}/{path}" if path else folder


def draws_of_epoch(samples: int, repeat_time: float, *, key: tuple[int, ...], epoch: int) -> np.ndarray:
    """Which samples of a data set are drawn in an epoch, int64, ascending: floor(samples * repeat_time) of them.

    Every sample comes floor(repeat_time) times. The rest is a seeded choice without repetition, a different one each
    epoch, which goes through the whole data set before it begins anew. (The released trainer takes the first lines of
    the file, the same in every epoch, and refuses fractions above one.)

    Args:
        samples: size of the data set.
        repeat_time: passes per epoch, as a decimal: 0.29 of 100 samples are 29.
        key: seed of the choice.
        epoch: 0-based.
    """
    passes = Fraction(str(repeat_time))
    whole, rest = divmod(passes * samples, samples) if samples else (0, Fraction(0))
    partial = int(rest)
    everything = np.repeat(np.arange(samples, dtype=np.int64), int(whole))
    if not partial:
        return everything
    turns = np.arange(epoch * partial, (epoch + 1) * partial, dtype=np.int64) % samples
    chosen = seeding.permutation(samples, *key)[turns]
    return np.sort(np.concatenate([everything, chosen]), kind="stable")


def _unique_names(uri: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise MetaError(f"meta {uri} names {', '.join(sorted(repeated))} more than once; names must be unique")
        return dict(pairs)

    return build
