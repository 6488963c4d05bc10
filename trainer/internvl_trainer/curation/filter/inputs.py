"""Which data sets are filtered, and how the filtered ones are described: meta JSON in, meta JSON out."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from internvl_trainer.contract.job import DataConfig
from internvl_trainer.curation.filter.errors import InputChangedError
from internvl_trainer.curation.filter.folder import file_of
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.media import read_text_object
from internvl_trainer.data.sources import Source, from_mixture, parse_meta
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore


class DataSet(NamedTuple):
    """A data set, and its entry of a meta JSON with every field that was given."""

    source: Source
    entry: dict[str, Any]


class LocalFile(NamedTuple):
    """An annotation file on this machine, and what it was when the run began."""

    path: Path
    identity: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return self.identity[0]

    def check_unchanged(self, source: Source) -> None:
        """Numbers of lines mean nothing in another file.

        Raises:
            InputChangedError: the file is not the one that the run began with.
        """
        if _identity(self.path) != self.identity:
            raise InputChangedError(f"annotation {source.annotation} changed while it was filtered; run again")


def data_sets_of_meta(uri: str, store: ObjectStore) -> tuple[DataSet, ...]:
    """The data sets of a meta JSON.

    Raises:
        MetaError: it is malformed, or not there.
    """
    payload = read_text_object(store, uri, "meta")
    given = {source: json.loads(payload)[source.name] for source in parse_meta(payload, uri=uri)}
    return tuple(DataSet(source, entry) for source, entry in given.items())


def data_sets_of_job(data: DataConfig, store: ObjectStore) -> tuple[DataSet, ...]:
    """The data sets of a job: those of its meta JSON, or its mixture's in the fields of a meta JSON."""
    if data.meta is not None:
        return data_sets_of_meta(data.meta, store)
    sources = from_mixture(data.mixture)
    return tuple(DataSet(each, each.model_dump(exclude={"name", "number"}, exclude_none=True)) for each in sources)


def filtered_meta(data_sets: tuple[DataSet, ...]) -> dict[str, Any]:
    """The meta JSON of the output: each annotation is the filtered file beside it, and the root, if it was relative to
    the former meta JSON, is written out. All else is as it was given."""
    return {
        each.source.name: each.entry | {"root": each.source.root, "annotation": file_of(each.source.name)}
        for each in data_sets
    }


def local_file(source: Source, store: ObjectStore, scratch: Path) -> LocalFile:
    """An annotation on this machine: in place, or a copy in `scratch`.

    Raises:
        MetaError: there is no such file.
        StoreError: the store did not answer.
    """
    uri = source.annotation
    scheme, separator, rest = uri.partition("://")
    path = Path(rest) if scheme == "file" and separator else Path(uri)
    if separator and scheme != "file":
        path = scratch / f"{source.number}.jsonl"
    try:
        if separator and scheme != "file":
            store.download(uri, path)
        return LocalFile(path, _identity(path))
    except (ObjectNotFoundError, FileNotFoundError) as error:
        raise MetaError(
            f"data set {source.name!r}: annotation {uri} does not exist; correct the meta JSON or upload the file"
        ) from error


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return (status.st_size, status.st_mtime_ns, status.st_ino)
