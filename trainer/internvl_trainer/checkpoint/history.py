"""A stage's history in the store: which of its checkpoints count for an attempt, and where the attempt began.

Run on one rank. What counts is decided by contract/attempts.py.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from internvl_trainer.checkpoint.commit import LOOKS, write_once
from internvl_trainer.contract import attempts, gate, keys
from internvl_trainer.contract.attempts import AttemptRecord, Fence, NewestCheckpoint
from internvl_trainer.contract.base import Contract
from internvl_trainer.contract.gate import Candidate
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore

logger = logging.getLogger(__name__)

HINTS = 16
"""Attempts before this one whose hints and records are looked for by name."""


class History(NamedTuple):
    """What an attempt finds of its stage."""

    candidates: list[Candidate]
    """Manifests that it may go on from, newest first; unread."""
    fences: tuple[Fence, ...]


def look_back(job: JobConfig, store: ObjectStore) -> History:
    """Find the checkpoints that count for a job's attempt.

    They come from a listing and from hints that are read by name, since a listing can be behind.

    Raises:
        StoreError: the store did not answer.
    """
    place = (job.storage.uri, job.run.uid, job.stage)
    uris = {info.uri for info in store.list(keys.stage_prefix(*place))}
    fences: tuple[Fence, ...] = ()
    for attempt in range(job.attempt, max(0, job.attempt - HINTS), -1):
        hint = _read(store, keys.newest_uri(*place, attempt), NewestCheckpoint)
        if hint is not None:
            # A storage that was copied as a whole still has hints at the old place.
            here = {uri for uri in hint.manifests if uri.startswith(keys.stage_prefix(*place))}
            uris |= _existing(store, here - uris)
        record = _read(store, keys.attempt_uri(*place, attempt), AttemptRecord)
        for fence in record.fences if record is not None else ():
            fences = attempts.with_fence(fences, fence)
    found = gate.candidates(uris, stage=job.stage, max_attempt=job.attempt)
    counted = attempts.admissible(found, fences)
    for late in (each for each in found if each not in counted):
        logger.warning(
            "leaving out %s: attempt %d committed it after a later attempt had begun", late.uri, late.key.attempt
        )
    return History(counted, fences)


def begin_attempt(
    job: JobConfig, store: ObjectStore, history: History, resumed: tuple[ManifestRef, int] | None
) -> None:
    """Write down where this attempt begins, which fences off what earlier ones may still commit.

    An attempt that is started again finds its record, and leaves it as it is.

    Args:
        resumed: the checkpoint that it goes on from, and its step; None: the stage's start.

    Raises:
        StoreError: the store did not answer.
    """
    step = resumed[1] if resumed else 0
    record = AttemptRecord(
        run=job.run,
        stage=job.stage,
        attempt=job.attempt,
        created_at=datetime.now(UTC),
        resumed_from=resumed[0] if resumed else None,
        fences=attempts.with_fence(history.fences, Fence(attempt=job.attempt, step=step)),
    )
    uri = keys.attempt_uri(job.storage.uri, job.run.uid, job.stage, job.attempt)
    if write_once(store, uri, record.to_bytes()) != record.to_bytes():
        logger.info("attempt %d of stage %s has begun before", job.attempt, job.stage)


def _existing(store: ObjectStore, uris: set[str]) -> set[str]:
    """Of manifests that were announced, those that have been written."""
    found = set()
    for uri in uris:
        with suppress(ObjectNotFoundError):
            found.add(store.stat(uri).uri)
    return found


def _read[Document: Contract](store: ObjectStore, uri: str, kind: type[Document]) -> Document | None:
    """A small document; None where there is none, or none that can be read."""
    for payload in _looks(store, uri):
        document = gate.parse(kind, payload)
        if isinstance(document, kind):
            return document
        logger.warning("%s cannot be read: %s", uri, document)
    return None


def _looks(store: ObjectStore, uri: str) -> Iterator[bytes]:
    for _ in range(LOOKS):
        try:
            yield store.read(uri)
        except ObjectNotFoundError:
            return
