"""Samples that are left out while training runs: how many are too many, and what is said of them."""

import logging
from collections.abc import Sequence

from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.data.errors import TooManyBadSamplesError
from internvl_trainer.data.index import count_reasons
from internvl_trainer.data.pack import Pack
from internvl_trainer.engine.errors import ranges

logger = logging.getLogger(__name__)

FLOOR = 10
"""Samples that may always be left out, however few have been seen, unless none may."""

IN_WORDS = 5
"""Samples that each process names in its log; after them it counts."""


def check_budget(position: DataPosition, max_bad_fraction: float) -> None:
    """Hold what has been left out against what may be. Pure, and so the same on all ranks.

    Args:
        position: samples seen and left out since the stage began.
        max_bad_fraction: of `data`; 0 allows none at all.

    Raises:
        TooManyBadSamplesError: says how many, of how many, and what to do.
    """
    allowed = max(FLOOR, int(max_bad_fraction * position.samples)) if max_bad_fraction else 0
    if position.skipped > allowed:
        raise TooManyBadSamplesError(
            f"{position.skipped} of {position.samples} samples could not be read while training, limit {allowed} "
            f"(data.max_bad_fraction {max_bad_fraction:g}, at least {FLOOR} unless it is 0); the logs of the ranks "
            "that load images name the first of them, `internvl data check` finds all. Repair the data or raise "
            "data.max_bad_fraction; the last checkpoint stays"
        )


class SkipLog:
    """Says which samples a process has left out: the first few in words, all of them by reason."""

    def __init__(self) -> None:
        self._seen = 0

    def note(self, packs: Sequence[Pack]) -> None:
        """The packs of one step, as they were loaded."""
        faults = [fault for pack in packs for fault in pack.skipped]
        if not faults:
            return
        for fault in faults[: max(0, IN_WORDS - self._seen)]:
            logger.warning("left out: %s", fault)
        self._seen += len(faults)
        reasons = ", ".join(f"{count} {reason}" for reason, count in count_reasons(faults).items())
        concerned = ranges(pack.index for pack in packs if pack.skipped)
        logger.warning("packs %s: left out %s; this process has left out %d by now", concerned, reasons, self._seen)
