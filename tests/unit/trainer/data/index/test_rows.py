"""The rows of an index: their layout and their codes are those of files that are kept, so they may never change."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from internvl_trainer.data.errors import BadSampleError, ImageUnreadableError, MalformedRecordError
from internvl_trainer.data.index import GOOD, REASONS, ROW, code_of, count_reasons

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[5] / "docs/reference/data-index.md"


def _kinds(base: type[BadSampleError]) -> Iterator[type[BadSampleError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


def test_a_row_has_24_bytes_at_known_places() -> None:
    assert ROW.itemsize == 24
    assert {name: (place.str, offset) for name, (place, offset) in ROW.fields.items()} == {
        "offset": ("<u8", 0),
        "size": ("<u4", 8),
        "line": ("<u4", 12),
        "tokens": ("<u4", 16),
        "tiles": ("<u2", 20),
        "kind": ("|u1", 22),
        "reason": ("|u1", 23),
    }


def test_every_kind_of_fault_has_a_code_of_its_own() -> None:
    ours = {kind for kind in _kinds(BadSampleError) if kind.__module__.startswith("internvl_trainer.")}
    assert set(REASONS.values()) == ours
    assert len(set(REASONS.values())) == len(REASONS)
    assert all(GOOD < code <= 255 for code in REASONS)
    assert all(code_of(kind("s:1", "wrong")) == code for code, kind in REASONS.items())


def test_codes_never_change_their_meaning() -> None:
    kept = {
        1: "malformed record",
        3: "placeholders do not match images",
        4: "reserved token in text",
        5: "image unreadable",
        6: "image size differs from the record",
        7: "visual tokens cut off",
        8: "too many tiles",
        9: "nothing to learn",
    }
    assert {code: REASONS[code].reason for code in kept} == kept


def test_reasons_are_counted_most_frequent_first() -> None:
    faults = [MalformedRecordError("a:1", "x"), ImageUnreadableError("a:2", "y"), ImageUnreadableError("a:3", "z")]
    assert list(count_reasons(faults).items()) == [("image unreadable", 2), ("malformed record", 1)]


def test_the_page_has_every_code() -> None:
    table = PAGE.read_text().partition("| code | reason | |")[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == [
        f"| {code} | {kind.reason} | {(kind.__doc__ or '').partition('\n')[0]} |" for code, kind in REASONS.items()
    ]
