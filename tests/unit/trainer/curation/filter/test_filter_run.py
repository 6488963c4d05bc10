"""A whole run over a folder: every line ends in one of three files, as it was written."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.cli import data
from internvl_trainer.curation.filter import spool
from internvl_trainer.curation.filter.folder import file_of
from internvl_trainer.curation.filter.lines import lines, ranges
from internvl_trainer.curation.filter.policy import Policy
from tests.unit.trainer.curation.filter.samples import BAD, GOOD

pytestmark = pytest.mark.unit

LOOP = "the cat sat " * 40


def sample(answer: str, **fields: Any) -> bytes:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": answer}]
    return json.dumps(fields | {"conversations": turns}).encode()


class Desk:
    """A folder with a meta JSON, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.meta: dict[str, Any] = {}

    def write(self, name: str, content: bytes, **fields: Any) -> None:
        path = f"set-{len(self.meta)}.jsonl"
        (self.folder / path).write_bytes(content)
        self.meta[name] = {"annotation": path} | fields
        (self.folder / "meta.json").write_text(json.dumps(self.meta))

    def policy(self, text: str) -> str:
        (self.folder / "policy.yaml").write_text(text)
        return str(self.folder / "policy.yaml")

    def run(self, *more: str, output: Path | None = None) -> Result:
        place = str(output or self.output)
        return CliRunner().invoke(data, ["filter", str(self.folder / "meta.json"), place, "--workers", "1", *more])

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / name).read_bytes().splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@contextmanager
def new_desk() -> Iterator[Desk]:
    folder = Path(tempfile.mkdtemp())
    try:
        yield Desk(folder)
    finally:
        shutil.rmtree(folder)


LINES = st.one_of(
    st.sampled_from([sample(text) for text in GOOD.values()]),
    st.sampled_from([sample(text) for text, _ in BAD.values()]),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")),
    st.sampled_from([b"", b"  ", b"{}", b"[1]", b'{"conversations": []}', b"\xff\xfe", sample("Fine.") + b"\r"]),
    st.builds(lambda text: sample(text, id=text), st.text(max_size=20)),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(LINES, max_size=12), st.booleans(), st.sampled_from(["review", "remove"]))
def test_every_line_is_kept_removed_or_in_review(given_lines: list[bytes], ends: bool, action: str) -> None:
    with new_desk() as desk:
        desk.write("a", b"\n".join(given_lines) + (b"\n" if ends else b""))
        rules = json.dumps({"rules": {"repeated-text": {"action": action}, "malformed": {"action": action}}})
        result = desk.run("--policy", desk.policy(rules), "--output", "json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)["totals"]
        kept = (desk.output / "a.jsonl").read_bytes().split(b"\n")[:-1]
        others = [*desk.rows("removed.jsonl"), *desk.rows("review.jsonl")]
        numbers = {row["line"] for row in others}
        samples = {number for number, line in enumerate(given_lines, 1) if line.strip()}
        assert kept == [given_lines[number - 1] for number in sorted(samples - numbers)]
        assert len(numbers) == len(others)
        assert numbers <= samples
        assert found["samples"] == len(samples) == found["kept"] + found["removed"] + found["review"]
        assert (found["kept"], found["removed"]) == (len(kept), len(desk.rows("removed.jsonl")))


def test_lines_are_kept_byte_for_byte_and_their_meta_points_at_them(desk: Desk) -> None:
    odd = b'{"conversations":  [{"from":"gpt","value":"\\u00e9 \xc3\xa9"}],"id":1.50 , "x": {"b":1,"a":2}}'
    desk.write("odd", odd + b"\r\n\n" + sample("Yes."), root="images", data_augment=True, repeat_time=2.5, length=7)
    desk.write("far", sample("Yes."), root="s3://bucket/images", max_dynamic_patch=6)
    assert desk.run().exit_code == 0
    assert (desk.output / "odd.jsonl").read_bytes() == odd + b"\r\n" + sample("Yes.") + b"\n"
    meta = json.loads((desk.output / "meta.json").read_text())
    assert meta == {
        "odd": {
            "root": str(desk.folder / "images"),
            "annotation": "odd.jsonl",
            "data_augment": True,
            "repeat_time": 2.5,
            "length": 7,
        },
        "far": {"root": "s3://bucket/images", "annotation": "far.jsonl", "max_dynamic_patch": 6},
    }
    report = json.loads((desk.output / "report.json").read_text())
    assert report["sources"]["odd"]["blankLines"] == 1


def test_the_output_can_be_filtered_again_and_nothing_more_is_found(desk: Desk) -> None:
    desk.write(
        "a", b"\n".join([*(sample(text) for text in GOOD.values()), *(sample(text) for text, _ in BAD.values())])
    )
    assert desk.run().exit_code == 0
    again = CliRunner().invoke(
        data, ["filter", str(desk.output / "meta.json"), str(desk.folder / "again"), "--workers", "1", "-o", "json"]
    )
    assert json.loads(again.stdout)["totals"]["kept"] == len(GOOD) == json.loads(again.stdout)["totals"]["samples"]


def test_what_was_found_is_told_with_rule_value_limit_file_and_line(desk: Desk) -> None:
    desk.write("a", b"\n".join([sample("Yes."), sample(LOOP, id="x-1"), b"{broken", b""]))
    assert desk.run("--policy", desk.policy("rules: {malformed: {action: remove}}")).exit_code == 0
    (review,) = desk.rows("review.jsonl")
    assert review["decision"] is None
    assert (review["source"], review["line"], review["id"]) == ("a", 2, "x-1")
    assert review["file"] == str(desk.folder / "set-0.jsonl")
    found = {finding["rule"]: (finding["value"], finding["limit"]) for finding in review["findings"]}
    assert found == {"repeated-text": (0.975, 0.3), "endless-loop": (467, 100)}
    assert review["sample"] == json.loads(sample(LOOP, id="x-1"))
    (removed,) = desk.rows("removed.jsonl")
    assert (removed["line"], removed["text"]) == (3, "{broken")
    assert removed["findings"][0]["detail"].startswith("not valid JSON (")
    assert "at line 1 column 2" in removed["findings"][0]["detail"], "a place within the line, not after it"


def test_an_output_that_cannot_be_written_is_told_of(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("a", sample("Yes."))
    (desk.folder / "file").write_text("not a folder")
    result = desk.run(output=desk.folder / "file" / "out")
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert f"{desk.folder}/file" in result.stderr

    def full(path: Path, document: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("internvl_trainer.curation.filter.folder.write_json", full)
    result = desk.run()
    assert result.exit_code == ExitCode.STORE_UNAVAILABLE
    assert (
        f"no space left on device; free space or name another place: this command writes to OUTPUT ({desk.output})"
        in (result.stderr)
    )
    assert {path.name for path in desk.folder.iterdir()} == {"set-0.jsonl", "meta.json", "file"}


def test_a_line_that_is_nested_without_end_is_malformed(desk: Desk) -> None:
    desk.write("a", b"[" * 100_000 + b"\n" + sample("Yes."))
    assert desk.run().exit_code == 0
    (row,) = desk.rows("review.jsonl")
    assert "not valid JSON (recursion limit exceeded" in row["findings"][0]["detail"]


def test_a_persons_decisions_are_applied(desk: Desk) -> None:
    desk.write("a", b"\n".join([sample("Yes."), *(sample(f"{LOOP} {n}. " + LOOP, id=n) for n in range(3))]))
    assert desk.run().exit_code == 0
    rows = desk.rows("review.jsonl")
    assert [row["id"] for row in rows] == [0, 1, 2]
    rows[0]["decision"], rows[1]["decision"] = "keep", "remove"
    decided = desk.folder / "decided.jsonl"
    decided.write_text("\n".join(map(json.dumps, rows)))
    assert desk.run("--force", "--apply-review", str(decided)).exit_code == 0
    assert [json.loads(line).get("id") for line in (desk.output / "a.jsonl").read_text().splitlines()] == [None, 0]
    assert [(row["id"], row["decision"]) for row in desk.rows("removed.jsonl")] == [(1, "remove")]
    assert [row["id"] for row in desk.rows("review.jsonl")] == [2]
    report = json.loads((desk.output / "report.json").read_text())["sources"]["a"]
    assert report["decided"] == {"keep": 1, "remove": 1}


def test_a_decision_by_id_alone(desk: Desk) -> None:
    desk.write("a", sample(LOOP, id="x") + b"\n" + sample("Fine.", id="y"))
    decided = desk.folder / "decided.jsonl"
    decided.write_text('{"id": "x", "decision": "keep"}\n{"id": "y", "decision": "remove"}\n')
    assert desk.run("--apply-review", str(decided)).exit_code == 0
    assert [row["id"] for row in desk.rows("a.jsonl")] == ["x"]
    assert [row["id"] for row in desk.rows("removed.jsonl")] == ["y"]


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ('{"id": "z", "decision": "keep"}', "decided.jsonl line 1: there is no id 'z' in any data set"),
        ('{"source": "a", "line": 9, "decision": "keep"}', "there is no line 9 in a"),
        ('{"source": "a", "line": 1, "sha256": "0", "decision": "keep"}', "is not the one that was reviewed"),
        ('{"id": "x", "decision": "keep"}', "id 'x' is that of a line 1 and of a line 2; give source and line"),
        ('{"id": "x", "decision": "maybe"}', "decision is 'maybe'; must be keep, remove or null"),
        ('{"decision": "keep"}', "says not about which sample"),
        ('{"id": "x"}', "must be an object with a decision"),
        ("keep x", "decided.jsonl line 1: is no JSON"),
        ('{"id": "q", "decision": "keep"}\n{"id": "q", "decision": "remove"}', "line 2: remove, but"),
    ],
)
def test_a_decision_that_cannot_be_followed(desk: Desk, decision: str, message: str) -> None:
    desk.write("a", sample("One.", id="x") + b"\n" + sample("Two.", id="x"))
    (desk.folder / "decided.jsonl").write_text(decision)
    result = desk.run("--apply-review", str(desk.folder / "decided.jsonl"))
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert message in result.stderr
    assert not desk.output.exists()


def test_exempt_data_sets_are_left_alone(desk: Desk) -> None:
    desk.write("ai2d", sample(LOOP) + b"\n" + sample(""))
    assert desk.run("--policy", desk.policy("sources: {'ai*': {exempt: [repetition]}, typo: {}}")).exit_code == 0
    assert [[finding["rule"] for finding in row["findings"]] for row in desk.rows("review.jsonl")] == [["short-answer"]]


def test_an_output_is_replaced_only_by_force_and_only_if_it_is_one(desk: Desk) -> None:
    desk.write("a", sample("Yes."))
    assert desk.run().exit_code == 0
    refused = desk.run()
    assert refused.exit_code == ExitCode.INVALID_CONFIG
    assert f"{desk.output} exists already" in refused.stderr
    (desk.output / "old").touch()
    assert desk.run("--force").exit_code == 0
    assert not (desk.output / "old").exists()
    other = desk.folder / "precious"
    other.mkdir()
    (other / "thesis.tex").touch()
    refused = desk.run("--force", output=other)
    assert refused.exit_code == ExitCode.INVALID_CONFIG
    assert "is no output of this command" in refused.stderr
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_what_fails_leaves_nothing_behind(desk: Desk) -> None:
    desk.write("a", sample("Yes."))
    desk.meta["b"] = {"annotation": "missing.jsonl"}
    (desk.folder / "meta.json").write_text(json.dumps(desk.meta))
    result = desk.run()
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert "data set 'b': annotation" in result.stderr
    assert "does not exist" in result.stderr
    assert sorted(path.name for path in desk.folder.iterdir()) == ["meta.json", "set-0.jsonl"]


def test_the_names_of_data_sets_become_names_of_files_without_collision(desk: Desk) -> None:
    names = ["a/b", "a%2Fb", "removed", "review", ".hidden", "\u732b", "two words"]
    assert len({file_of(name) for name in names} | {"removed.jsonl", "review.jsonl"}) == len(names) + 2
    assert all("/" not in file_of(name) and not file_of(name).startswith(".") for name in names)
    for name in names:
        desk.write(name, sample("Yes.", id=name))
    assert desk.run().exit_code == 0
    meta = json.loads((desk.output / "meta.json").read_text())
    assert [desk.rows(meta[name]["annotation"])[0]["id"] for name in names] == names


def test_a_job_file_names_a_mixture(desk: Desk) -> None:
    desk.write("a", sample("Yes.") + b"\n" + sample(""))
    job = desk.folder / "job.yaml"
    job.write_text(
        "model: tiny-1b-like\n"
        "data:\n"
        "  tokenizer: t\n"
        "  mixture: [{name: m, annotation: set-0.jsonl, root: pictures, repeat: 1.5, augment: true}]\n"
        "optimization: {steps: 20, peak_lr: 1e-3, global_batch: 4}\n"
        "checkpoint: {every_steps: 10}\n"
        'storage: {uri: "file://checkpoints"}\n'
    )
    result = CliRunner().invoke(data, ["filter", "--config", str(job), str(desk.output), "--workers", "1"])
    assert result.exit_code == 0, result.stderr
    assert json.loads((desk.output / "meta.json").read_text()) == {
        "m": {
            "root": str(desk.folder / "pictures"),
            "annotation": "m.jsonl",
            "data_augment": True,
            "repeat_time": 1.5,
        }
    }


@given(st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")), max_size=20), st.integers(1, 50))
def test_ranges_hold_every_line_once(given_lines: list[bytes], size: int) -> None:
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(b"\n".join(given_lines))
        whole = [line.text for line in lines(path)]
        assert [line.text for part in ranges(path, size) for line in lines(path, part)] == whole
        assert b"".join(whole) == b"\n".join(given_lines)


def test_flags_do_not_depend_on_the_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(sample(LOOP if n % 3 else "Yes.") for n in range(20)))
    found = []
    for size in (1, 100, 10_000_000):
        monkeypatch.setattr(spool, "ranges", lambda given, size=size: ranges(given, size))
        told: list[int] = []
        spool.write_spool(path, "a", Policy(), tmp_path / "flags", None, told.append)
        assert sum(told) == path.stat().st_size
        found.append([(line.number, flags) for line, flags in spool.with_flags(path, tmp_path / "flags")])
    assert found[0] == found[1] == found[2]
    assert sum(bool(flags) for _, flags in found[0]) == 13
