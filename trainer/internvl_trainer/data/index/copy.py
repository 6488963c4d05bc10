"""The copy of an index that a node has, shared by its processes."""

import hashlib
import json
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from internvl_trainer.data.index.header import IndexFile, IndexHeader

_UNFINISHED = ".unfinished"


class NodeCopy:
    """The files of one index in a node's cache. All methods are to be called under `lock`.

    The header is written last and removed first, so that a copy with a header is whole. What processes did to the
    files afterwards is noticed: `seen` holds the size and the time of change that the verified files had.
    """

    def __init__(self, cache: Path, digest: str) -> None:
        self._folder = cache / "index" / digest
        self.rows = self._folder / "rows"
        self.bad_samples = self._folder / "bad.jsonl"
        self._header = self._folder / "header.json"
        self._seen = self._folder / "seen.json"

    def lock(self) -> FileLock:
        """Held by the one process that looks at the copy or makes it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._folder / "lock")

    def unfinished(self) -> tuple[Path, Path]:
        """Where rows and bad samples are written; what a killed process left there is overwritten."""
        return self.rows.with_name("rows" + _UNFINISHED), self.bad_samples.with_name("bad.jsonl" + _UNFINISHED)

    def header(self) -> IndexHeader | None:
        """The header of a copy whose files are what it says; None where there is none, or it was damaged."""
        try:
            header = IndexHeader.from_bytes(self._header.read_bytes())
            state = self._state()
        except (FileNotFoundError, ValidationError):
            return None
        if not (self._seen.exists() and self._seen.read_bytes() == state):
            if not self._verifies(header):
                return None
            self._seen.write_bytes(state)
        return header

    def finish(self, header: IndexHeader) -> bool:
        """Make the unfinished files the copy; False, and no copy, where they are not what the header says."""
        self._header.unlink(missing_ok=True)
        for path, final in zip(self.unfinished(), (self.rows, self.bad_samples), strict=True):
            path.replace(final)
        if not self._verifies(header):
            return False
        self._seen.write_bytes(self._state())
        unfinished = self._header.with_name("header.json" + _UNFINISHED)
        unfinished.write_bytes(header.to_bytes())
        unfinished.replace(self._header)
        return True

    def _verifies(self, header: IndexHeader) -> bool:
        return _is(self.rows, header.rows) and _is(self.bad_samples, header.bad_samples)

    def _state(self) -> bytes:
        stats = [path.stat() for path in (self.rows, self.bad_samples)]
        return json.dumps([(stat.st_size, stat.st_mtime_ns) for stat in stats]).encode()


def _is(path: Path, file: IndexFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
