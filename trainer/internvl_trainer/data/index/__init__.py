"""The index of a data set: where each of its samples lies, how many tokens and tiles it has, or why it cannot be used.

It holds numbers only, 24 bytes a sample, in a file that is mapped. docs/reference/data-index.md has the format.
"""

from internvl_trainer.data.index.build import Progress
from internvl_trainer.data.index.opening import find_or_build, open_indexes
from internvl_trainer.data.index.part import BadSample
from internvl_trainer.data.index.processes import MeasuringProcessDiedError
from internvl_trainer.data.index.rows import GOOD, REASONS, ROW, code_of, count_reasons
from internvl_trainer.data.index.source_index import SourceIndex, check_budget

__all__ = [
    "GOOD",
    "REASONS",
    "ROW",
    "BadSample",
    "MeasuringProcessDiedError",
    "Progress",
    "SourceIndex",
    "check_budget",
    "code_of",
    "count_reasons",
    "find_or_build",
    "open_indexes",
]
