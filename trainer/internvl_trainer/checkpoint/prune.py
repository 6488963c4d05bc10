"""Retention while training goes on: after each commit, what the policy lets go is removed. Run on one rank.

The manifest goes first, and with it the checkpoint; then its objects. What is left of a removal that was interrupted
has no manifest, and is found by `internvl checkpoint gc`.
"""

import logging
from contextlib import suppress

from internvl_trainer.checkpoint import garbage, inventory
from internvl_trainer.contract import keys, retention
from internvl_trainer.contract.gate import Candidate
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.retention import Kept
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore, StoreError

logger = logging.getLogger(__name__)


def stock(store: ObjectStore, stage_prefix: str, *, max_attempt: int) -> list[Kept]:
    """The sound checkpoints of a stage that count for an attempt, and what speaks for keeping each.

    Nothing where the record of an attempt cannot be read: nobody knows then which ones count.

    Raises:
        StoreError: the store did not answer.
    """
    found = inventory.take(store, stage_prefix)
    return [
        kept
        for stage in found.stages
        if stage.uri == stage_prefix and not stage.has_unknown_fences
        for kept in garbage.stock(found, stage)
        if kept.candidate.key.attempt <= max_attempt
    ]


def remove(store: ObjectStore, manifest_uri: str) -> int:
    """Remove a checkpoint, its manifest first; the number of objects that went with it.

    Raises:
        StoreError: the store did not answer. What is left then is no checkpoint any more.
    """
    folder = keys.folder_of(manifest_uri)
    with suppress(ObjectNotFoundError):
        store.stat(keys.pin_uri(manifest_uri))
        return 0  # pinned a moment ago
    store.delete(manifest_uri)
    objects = [info.uri for info in store.list(folder)]
    store.delete_all(objects)
    return len(objects)


class Pruner:
    """Retention of one stage, as its job's config has it.

    Args:
        job: says which stage, and what is kept.
        store: opened for its storage.
    """

    def __init__(self, job: JobConfig, store: ObjectStore) -> None:
        self._job = job
        self._store = store

    def prune(self) -> list[Candidate]:
        """Remove what the policy lets go. A store that does not answer is logged: the next commit tries again.

        Returns:
            what was removed.
        """
        job = self._job
        if job.checkpoint.retention.keep_last is None:
            return []
        prefix = keys.stage_prefix(job.storage.uri, job.run.uid, job.stage)
        gone: list[Candidate] = []
        try:
            kept = stock(self._store, prefix, max_attempt=job.attempt)
            for candidate in retention.superseded(kept, job.checkpoint.retention):
                count = remove(self._store, candidate.uri)
                gone.append(candidate)
                logger.info("removed checkpoint %s and its %d objects: superseded", candidate.uri, count)
        except StoreError as error:
            logger.warning("old checkpoints were not all removed: %s", error)
        return gone
