"""Retention while training goes on: after each commit, what the policy lets go is removed. Run on one rank.

The manifest goes first, and with it the checkpoint; then its objects. What is left of a removal that was interrupted
has no manifest, and is found by `internvl checkpoint gc`.
"""

import logging

from internvl_trainer.checkpoint import garbage, inventory
from internvl_trainer.checkpoint.sweep import remove_checkpoint
from internvl_trainer.contract import keys, retention
from internvl_trainer.contract.gate import Candidate
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.retention import Kept
from internvl_trainer.storage import ObjectStore, StoreError

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


def prune(job: JobConfig, store: ObjectStore) -> list[Candidate]:
    """Retention of one stage, as its job's config has it: remove what the policy lets go.

    A store that does not answer is logged: the next commit tries again.

    Args:
        job: says which stage, and what is kept.
        store: opened for its storage.

    Returns:
        what was removed.
    """
    policy = job.checkpoint.retention
    if policy.keep_last is None:
        return []
    prefix = keys.stage_prefix(job.storage.uri, job.run.uid, job.stage)
    gone: list[Candidate] = []
    try:
        for candidate in retention.superseded(stock(store, prefix, max_attempt=job.attempt), policy):
            count = remove_checkpoint(store, candidate.uri)
            if count is not None:
                gone.append(candidate)
                logger.info("removed checkpoint %s and its %d objects: superseded", candidate.uri, count)
    except StoreError as error:
        logger.warning("old checkpoints were not all removed: %s", error)
    return gone
