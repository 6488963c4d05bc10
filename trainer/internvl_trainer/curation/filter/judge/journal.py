"""The journal of scores: one row per question that was settled, found again by its key.

SQLite with a write-ahead log: a row that was written survives the death of the process at once, and a loss of power
from the next checkpoint of the log on. Memory does not grow with the number of rows.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from internvl_trainer.curation.filter.errors import JournalError
from internvl_trainer.curation.filter.judge.outcomes import Outcome, Rejected, Score, Unreadable

BATCH = 256
"""Rows after which the log is brought to the disk."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outcomes (
    key BLOB PRIMARY KEY,
    outcome TEXT NOT NULL,
    score REAL,
    reason TEXT NOT NULL,
    model TEXT NOT NULL,
    settled_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ'))
) WITHOUT ROWID
"""
_FORMAT = 1
_KINDS: dict[str, type[Unreadable] | type[Rejected]] = {"unreadable": Unreadable, "rejected": Rejected}


class Journal:
    """Outcomes by key. A rejected question counts as open again in the next run, since an endpoint can be mended."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._written = 0

    def find(self, key: bytes) -> Outcome | None:
        """What came of a question; None if it was never settled."""
        row = self._database.execute("SELECT outcome, score, reason FROM outcomes WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        outcome, score, reason = row
        return Score(score, reason) if outcome == "score" else _KINDS[outcome](reason)

    def is_open(self, key: bytes) -> bool:
        """Whether a question still has to be asked."""
        found = self.find(key)
        return found is None or isinstance(found, Rejected)

    def settle(self, key: bytes, outcome: Outcome, model: str) -> None:
        """Write an outcome; a later one for the same key takes its place."""
        kind = type(outcome).__name__.lower()
        score = outcome.value if isinstance(outcome, Score) else None
        self._database.execute(
            "INSERT OR REPLACE INTO outcomes (key, outcome, score, reason, model) VALUES (?, ?, ?, ?, ?)",
            (key, kind, score, outcome.reason, model),
        )
        self._written += 1
        if self._written % BATCH == 0:
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def reopen_unreadable(self) -> int:
        """Forget what could not be read, so that it is asked again; how many rows that were."""
        return self._database.execute("DELETE FROM outcomes WHERE outcome = 'unreadable'").rowcount

    def count_anew(self) -> None:
        """Forget what `first_time` has counted."""
        self._database.execute("DELETE FROM temp.counted")

    def first_time(self, key: bytes) -> bool:
        """Whether this run has not counted a key yet; the keys lie on disk, not in memory."""
        return self._database.execute("INSERT OR IGNORE INTO temp.counted VALUES (?)", (key,)).rowcount == 1


@contextmanager
def opened(path: Path | None) -> Iterator[Journal]:
    """The journal in a file, made if it is not there; None: one that is gone in the end.

    Raises:
        JournalError: the file is none, belongs to a later version, cannot be written, or another run uses it.
    """
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=1)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"journal {path} cannot be opened: {error}") from error
    try:
        _prepare(database, path)
        yield Journal(database)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.close()


def _prepare(database: sqlite3.Connection, path: Path | None) -> None:
    try:
        # One run at a time: two would ask the same questions.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA temp_store = FILE")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, _FORMAT):
            raise JournalError(f"journal {path} has format {version}, this version reads {_FORMAT}; name another file")
        database.execute(f"PRAGMA user_version = {_FORMAT}")
        database.execute(_SCHEMA)
        database.execute("CREATE TEMP TABLE counted (key BLOB PRIMARY KEY) WITHOUT ROWID")
    except sqlite3.OperationalError as error:
        remedy = "another run uses it; wait for its end" if "locked" in str(error) else "name another file by --journal"
        raise JournalError(f"journal {path} cannot be used ({error}): {remedy}") from error
    except sqlite3.DatabaseError as error:
        raise JournalError(f"{path} is no journal of scores ({error}); name another file by --journal") from error
