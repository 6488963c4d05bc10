"""The index of a data set: what its rows say, when it is found again, and what happens to damaged copies."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig, MixtureSource
from internvl_trainer.data import Tokenizer
from internvl_trainer.data.errors import (
    DataError,
    MalformedRecordError,
    PlaceholderMismatchError,
    TooManyBadSamplesError,
)
from internvl_trainer.data.index import ROW, SourceIndex, check_budget, chunks, code_of, open_indexes
from internvl_trainer.data.index.header import WITHOUT_EFFECT
from internvl_trainer.data.index.lines import LocalFile
from internvl_trainer.data.index.part import Measuring, Part, PartMeasurer
from internvl_trainer.data.sources import from_mixture
from internvl_trainer.storage import open_store
from tests.unit.trainer.data.world import GOLDEN, image_record, text_record

pytestmark = pytest.mark.unit

Annotate = Callable[..., Path]
OpenOne = Callable[..., SourceIndex]

MIXED: list[bytes | dict[str, Any]] = [
    text_record(7),
    b"\n",
    image_record(8, "wide.png", 336, 224),
    b"{broken\n",
    image_record(9, ["a.png", "b.png"], [112, 112], [112, 112]),
    image_record("ten", "a.png", 112, 112) | {"conversations": [{"from": "human", "value": "<image><image>"}]},
]


def test_a_row_says_where_a_sample_lies_and_what_it_measures(annotate: Annotate, open_one: OpenOne) -> None:
    path = annotate(MIXED)
    index = open_one(path)
    content = path.read_bytes()
    rows = index.rows

    assert rows.dtype == ROW
    assert [content[row["offset"] :][: row["size"]] + b"\n" for row in rows] == [
        line for line in content.splitlines(keepends=True) if line.strip()
    ]
    assert rows["line"].tolist() == [1, 3, 4, 5, 6]
    assert rows["tiles"].tolist() == [0, 7, 0, 2, 0]
    assert rows["kind"].tolist() == [0, 1, 0, 2, 1]
    assert (rows["tokens"] > 0).tolist() == [True, True, False, True, False]
    faults = [MalformedRecordError("s", "x"), PlaceholderMismatchError("s", "x")]
    assert rows["reason"].tolist() == [0, 0, code_of(faults[0]), 0, code_of(faults[1])]


def test_a_row_leads_back_to_its_record(annotate: Annotate, open_one: OpenOne) -> None:
    index = open_one(annotate(MIXED))
    assert len(index) == 5
    assert [index.record(row).images for row in (0, 1, 3)] == [(), ("wide.png",), ("a.png", "b.png")]
    assert index.record(1).sizes == ((336, 224),)


def test_bad_samples_are_told_with_line_id_and_reason(annotate: Annotate, open_one: OpenOne) -> None:
    index = open_one(annotate(MIXED))
    broken, doubled = index.bad_samples()
    assert (broken.source, broken.line, broken.id, broken.reason) == ("set", 4, None, "malformed record")
    assert broken.detail.startswith("not valid JSON")
    assert (doubled.line, doubled.id, doubled.reason) == (6, "ten", "placeholders do not match images")
    assert index.header.bad == 2
    assert index.header.reasons == {"malformed record": 1, "placeholders do not match images": 1}
    assert [message.startswith("sample set:") for message in index.header.messages] == [True, True]


def test_files_are_looked_at_where_a_record_does_not_say_enough(
    annotate: Annotate, open_one: OpenOne, save_image: Callable[[str, int, int], None]
) -> None:
    save_image("wide.png", 336, 224)
    film = {"id": "film", "video": "film.mp4"} | text_record(1)
    index = open_one(
        annotate(
            [image_record(1, "wide.png"), image_record(2, "gone.png"), film, image_record(3, "wide.png", 112, 112)]
        ),
        min_frames=9,
        max_frames=9,
    )
    assert index.rows["tiles"].tolist() == [7, 0, 9, 1], "what a record states is believed"
    assert index.rows["kind"].tolist() == [1, 1, 3, 1]
    assert index.header.reasons == {"image unreadable": 1}
    assert index.header.kinds == {"single_image": 2, "video": 1}


def test_the_header_sums_up_the_good_ones(annotate: Annotate, open_one: OpenOne) -> None:
    index = open_one(annotate(MIXED))
    header, rows = index.header, index.rows
    assert (header.samples, header.tokens, header.tiles) == (5, int(rows["tokens"].sum()), 9)
    assert header.kinds == {"text": 1, "single_image": 1, "multi_image": 1}


# Lines that are records, and bytes that are none.
JUNK = st.sampled_from(
    [
        b"\n",
        b"\r\n",
        b" \t\n",
        b"\0\n",
        b"{}\n",
        b"[1]\n",
        b'{"id": 1}\r\n',
        b"\xff\xfe{}\n",
        b"null\n",
        b"[" * 5000 + b"\n",
        b'{"id": "\\ud800"}\n',
    ]
)
RECORDS = st.builds(
    lambda number, end, mark: mark + json.dumps(text_record(number)).encode() + end,
    st.integers(0, 10**6),
    st.sampled_from([b"\n", b"\r\n"]),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"  "]),
)
FILES = st.builds(
    lambda lines, last: b"".join(lines) + last, st.lists(RECORDS | JUNK, max_size=8), st.binary(max_size=9)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(FILES, st.integers(20, 300))
def test_any_division_of_any_file_gives_the_same_rows(
    tmp_path: Path, geometry: ModelGeometry, qwen: Tokenizer, content: bytes, size: int
) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    (source,) = from_mixture([MixtureSource(name="any", annotation=str(path))])
    data = DataConfig(mixture=(MixtureSource(name="any", annotation=str(path)),), tokenizer="t")
    measurer = PartMeasurer(Measuring(data, geometry, qwen, open_store(), tmp_path))
    file = LocalFile(path)

    number, parts = 1, []
    for limits in chunks.parts(len(content), size):
        part = Part(source, file, *limits)
        parts.append(measurer.measure(part, number))
        number += part.count_lines()
    whole = measurer.measure(Part(source, file, 0, len(content)), 1)
    measurer.close()

    assert np.array_equal(np.concatenate([np.empty(0, ROW), *(part.rows for part in parts)]), whole.rows)
    assert sum((part.bad for part in parts), ()) == whole.bad
    assert number - 1 == len(content.removesuffix(b"\n").split(b"\n")) if content else number == 1


def test_a_byte_order_mark_is_no_fault(annotate: Annotate, open_one: OpenOne) -> None:
    index = open_one(annotate([b"\xef\xbb\xbf" + json.dumps(text_record(1)).encode() + b"\r\n", text_record(2)]))
    assert index.header.bad == 0
    assert index.record(0).turns == index.record(1).turns


def test_an_index_is_built_once(annotate: Annotate, open_one: OpenOne) -> None:
    path = annotate(MIXED)
    first, second = open_one(path), open_one(path)
    assert (first.built, second.built) == (True, False)
    assert np.array_equal(first.rows, second.rows)
    assert list(first.bad_samples()) == list(second.bad_samples())


def test_a_kept_index_is_found_by_another_node(annotate: Annotate, open_one: OpenOne, tmp_path: Path) -> None:
    path, kept = annotate(MIXED), str(tmp_path / "kept")
    first, second = open_one(path, index=kept), open_one(path, index=kept, cache="of another node")
    assert (first.built, second.built) == (True, False)
    assert first.header == second.header
    assert np.array_equal(first.rows, second.rows)
    assert list(first.bad_samples()) == list(second.bad_samples())


def test_an_index_that_a_node_has_already_is_kept_when_a_folder_is_named(
    annotate: Annotate, open_one: OpenOne, tmp_path: Path
) -> None:
    path, kept = annotate(MIXED), str(tmp_path / "kept")
    open_one(path)
    assert not open_one(path, index=kept).built
    assert not open_one(path, index=kept, cache="of another node").built


CHANGES: list[dict[str, Any]] = [
    {"max_tiles": 4},
    {"thumbnail": False},
    {"pack_tokens": 4096},
    {"pack_tiles": 12},
    {"max_frames": 16},
    {"source": {"max_tiles": 3}},
    {"source": {"root": "/elsewhere"}},
    {"source": {"name": "another"}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_whatever_changes_rows_asks_for_another_index(
    annotate: Annotate, open_one: OpenOne, change: dict[str, Any]
) -> None:
    path = annotate([text_record(1)])
    first = open_one(path)
    assert open_one(path, **change).header.digest != first.header.digest


def test_a_changed_file_model_or_tokenizer_asks_for_another_index(
    annotate: Annotate, open_one: OpenOne, geometry: ModelGeometry
) -> None:
    first = open_one(annotate([text_record(1)]))
    payload = (GOLDEN / "qwen2_5_subset" / "tokenizer.json").read_bytes()
    larger = geometry.vision.model_copy(update={"image_size": 224})
    digests = {
        first.header.digest,
        open_one(
            annotate([text_record(1)], "set.jsonl"), tokenizer=Tokenizer(payload + b" ", family="qwen2.5")
        ).header.digest,
        open_one(
            annotate([text_record(1)], "set.jsonl"), model=geometry.model_copy(update={"vision": larger})
        ).header.digest,
        open_one(annotate([text_record(2)])).header.digest,
    }
    assert len(digests) == 4


def test_what_changes_no_row_asks_for_none(annotate: Annotate, open_one: OpenOne, tmp_path: Path) -> None:
    path = annotate([text_record(1)])
    open_one(path)
    again = open_one(
        path, workers=3, seed=7, max_bad_fraction=0.5, repeat_mode="reference", source={"repeat": 3, "augment": True}
    )
    assert not again.built


def test_every_field_without_effect_is_one_of_the_configs() -> None:
    assert set(DataConfig.model_fields) >= WITHOUT_EFFECT


@pytest.mark.parametrize("name", ["rows", "bad.jsonl", "header.json", "seen.json"])
@pytest.mark.parametrize("damage", [b"", b"\xff"], ids=["cut", "overwritten"])
@pytest.mark.parametrize("kept", [None, "kept"])
def test_a_damaged_copy_is_replaced(
    annotate: Annotate, open_one: OpenOne, tmp_path: Path, name: str, damage: bytes, kept: str | None
) -> None:
    path, config = annotate(MIXED), {"index": kept and str(tmp_path / kept)}
    before = open_one(path, **config)
    content = np.array(before.rows)
    file = before.files.rows.with_name(name)
    file.write_bytes(damage and damage * file.stat().st_size)

    after = open_one(path, **config)

    spared = name == "seen.json"
    assert after.built == (kept is None and not spared), "a node that can, fetches it again"
    assert np.array_equal(after.rows, content)
    assert len(list(after.bad_samples())) == 2


@pytest.mark.parametrize("suffix", [".rows", ".bad.jsonl", ".json"])
@pytest.mark.parametrize("damage", ["removed", "overwritten"])
def test_a_damaged_index_is_kept_anew(
    annotate: Annotate, open_one: OpenOne, tmp_path: Path, suffix: str, damage: str
) -> None:
    path, kept = annotate(MIXED), tmp_path / "kept"
    before = open_one(path, index=str(kept))
    (file,) = (
        file for file in kept.iterdir() if file.name.endswith(suffix) and file.name.count(".") == suffix.count(".")
    )
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(b"x" * file.stat().st_size)

    second = open_one(path, index=str(kept), cache="of a second node")
    third = open_one(path, index=str(kept), cache="of a third node")

    assert (second.built, third.built) == (True, False)
    assert second.header == third.header == before.header


def test_of_two_builders_that_disagree_all_use_the_first(
    annotate: Annotate, open_one: OpenOne, tmp_path: Path, save_image: Callable[[str, int, int], None]
) -> None:
    path, kept = annotate([image_record(1, "late.png"), text_record(2)]), str(tmp_path / "kept")
    first = open_one(path, index=kept)
    assert first.header.bad == 1, "its image is not there yet"
    save_image("late.png", 112, 112)
    second = open_one(path, cache="of a second node")
    assert second.header.bad == 0
    assert second.header.digest == first.header.digest

    second = open_one(path, index=kept, cache="of a second node")

    assert second.header == first.header
    assert np.array_equal(second.rows, first.rows)


def test_an_index_can_be_sent_to_another_process(annotate: Annotate, open_one: OpenOne) -> None:
    index = open_one(annotate([text_record(number) for number in range(2000)]))
    assert len(index.rows) == 2000
    sent = pickle.dumps(index)
    assert len(sent) < 5000, "rows stay in their file"
    received = pickle.loads(sent)
    assert np.array_equal(received.rows, index.rows)
    assert received.record(1999) == index.record(1999)


def test_rows_cannot_be_written(annotate: Annotate, open_one: OpenOne) -> None:
    with pytest.raises(ValueError, match="read-only"):
        open_one(annotate([text_record(1)])).rows["tokens"][0] = 1


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n"], ids=["empty", "blank"])
def test_a_file_without_samples_is_refused(annotate: Annotate, open_one: OpenOne, content: bytes) -> None:
    with pytest.raises(DataError, match=r"data set 'set': .*set\.jsonl holds no sample"):
        open_one(annotate([content]))


def test_limits_that_a_row_cannot_say_are_refused(annotate: Annotate, open_one: OpenOne) -> None:
    with pytest.raises(DataError, match=r"data\.pack_tiles is 65,536; an index can say at most 65,535 of a sample"):
        open_one(annotate([text_record(1)]), pack_tiles=65536)


def test_the_budget_is_a_share_of_all_samples(annotate: Annotate, open_one: OpenOne) -> None:
    index = open_one(annotate([*(text_record(number) for number in range(8)), b"x\n", b"y\n"]))
    check_budget(index, 0.2)
    with pytest.raises(
        TooManyBadSamplesError, match=r"2 of 10 samples are unusable, limit 19\.9% \(2 malformed record\)"
    ):
        check_budget(index, 0.199)


def test_a_data_set_of_bad_samples_alone_is_above_any_budget(annotate: Annotate, open_one: OpenOne) -> None:
    with pytest.raises(TooManyBadSamplesError, match="1 of 1 samples are unusable"):
        check_budget(open_one(annotate([b"x\n"])), 1.0)


def test_a_stage_opens_all_its_indexes(
    annotate: Annotate, tmp_path: Path, geometry: ModelGeometry, qwen: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    mixture = tuple(
        MixtureSource(name=name, annotation=str(annotate([text_record(1), text_record(2), b"x\n"], f"{name}.jsonl")))
        for name in ("first", "second")
    )
    data = DataConfig(mixture=mixture, tokenizer="t", max_bad_fraction=0.5)
    indexes = open_indexes(data, geometry, qwen, open_store(), tmp_path / "cache")
    assert [(index.source.name, len(index)) for index in indexes] == [("first", 3), ("second", 3)]
    assert "data set second: 1 of 3 samples is left out: 1 malformed record" in caplog.text
    with pytest.raises(TooManyBadSamplesError, match="data set 'first'"):
        open_indexes(
            data.model_copy(update={"max_bad_fraction": 0.1}), geometry, qwen, open_store(), tmp_path / "cache"
        )
