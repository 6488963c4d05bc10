"""Building one index: measured parts, in order, straight into files."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from internvl_trainer.data.errors import DataError
from internvl_trainer.data.index.header import IndexFile, IndexHeader
from internvl_trainer.data.index.part import MeasuredPart
from internvl_trainer.data.index.rows import GOOD
from internvl_trainer.data.records import Kind
from internvl_trainer.data.sources import Source
from internvl_trainer.storage.digest import StreamDigest

MESSAGES = 10
"""Messages of bad samples that a header has in full."""


class Progress(NamedTuple):
    """How far the index of a data set is."""

    source: str
    bytes_done: int
    bytes: int
    """Of the annotation file."""
    samples: int
    bad: int


Watch = Callable[[Progress], None]
"""Called after each part of an annotation file."""


def build(
    digest: str,
    source: Source,
    annotation_bytes: int,
    parts: Iterable[MeasuredPart],
    rows: Path,
    bad_samples: Path,
    watch: Watch,
) -> IndexHeader:
    """Write the rows and the bad samples of a data set; memory holds one part at a time.

    Args:
        parts: in the file's order.
        rows, bad_samples: files to write, replaced if they are there.

    Raises:
        DataError: the annotation file holds no sample.
    """
    row_digest, bad_digest = StreamDigest(), StreamDigest()
    done = bad = tokens = tiles = 0
    kinds: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    messages: list[str] = []
    with rows.open("wb") as row_file, bad_samples.open("wb") as bad_file:
        for part in parts:
            payload = part.rows.tobytes()
            row_file.write(payload)
            row_digest.update(payload)
            for sample in part.bad:
                line = sample.to_json()
                bad_file.write(line)
                bad_digest.update(line)
            good = part.rows[part.rows["reason"] == GOOD]
            tokens += int(good["tokens"].sum(dtype=np.int64))
            tiles += int(good["tiles"].sum(dtype=np.int64))
            kinds.update(good["kind"].tolist())
            reasons.update(sample.reason for sample in part.bad)
            messages += part.messages[: MESSAGES - len(messages)]
            done, bad = done + part.size, bad + len(part.bad)
            watch(Progress(source.name, done, annotation_bytes, row_digest.size // part.rows.itemsize, bad))
    if not row_digest.size:
        raise DataError(f"data set {source.name!r}: {source.annotation} holds no sample")
    return IndexHeader(
        digest=digest,
        source=source.name,
        annotation=source.annotation,
        samples=sum(kinds.values()) + bad,
        bad=bad,
        tokens=tokens,
        tiles=tiles,
        kinds={kind.name.lower(): kinds[kind] for kind in Kind if kinds[kind]},
        reasons=dict(reasons.most_common()),
        messages=tuple(messages),
        rows=IndexFile(size=row_digest.size, sha256=row_digest.sha256),
        bad_samples=IndexFile(size=bad_digest.size, sha256=bad_digest.sha256),
    )
