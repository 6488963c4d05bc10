"""`internvl data filter` against a real endpoint on loopback: scores, faults, pace, and going on after a kill."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.cli import data
from internvl_trainer.curation.filter.errors import UNAVAILABLE
from tests.integration.curation import judge_server
from tests.integration.curation.judge_server import Answer, Asked, JudgeServer

pytestmark = pytest.mark.integration

KEY = "sk-loopback-0123456789"


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with judge_server.running() as server:
        yield server


class Desk:
    """A folder with a data set of `count` texts, and a policy whose judge is the server."""

    def __init__(self, folder: Path, judge: JudgeServer, **settings: Any) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.policy = folder / "policy.yaml"
        self.set(judge, **settings)

    def set(self, judge: JudgeServer, **settings: Any) -> None:
        sources = settings.pop("sources", {})
        chosen = {"base_url": judge.url, "model": "judge-1", "repetition": {"enabled": False, "threshold": 3}}
        chosen["repetition"] |= {"action": "review"}
        self.policy.write_text(json.dumps({"judge": chosen | settings, "sources": sources}))

    def write(self, answers: list[str], *, name: str = "texts", **fields: Any) -> None:
        records = (
            {"id": n, "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": answer}]} | fields
            for n, answer in enumerate(answers)
        )
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (self.folder / "meta.json").write_text(json.dumps({name: {"root": "", "annotation": f"{name}.jsonl"}}))

    def arguments(self, *more: str) -> list[str]:
        return ["filter", str(self.folder / "meta.json"), str(self.output), "--policy", str(self.policy), *more]

    def run(self, *more: str) -> Result:
        return CliRunner(env={"OPENAI_API_KEY": KEY}).invoke(data, self.arguments(*more))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / name).read_text().splitlines()]

    def kept(self, name: str = "texts") -> list[int]:
        return [row["id"] for row in self.rows(f"{name}.jsonl")]


@pytest.fixture
def desk(tmp_path: Path, judge: JudgeServer) -> Desk:
    return Desk(tmp_path, judge)


def test_what_scores_below_seven_is_removed_and_the_rest_is_kept(desk: Desk, judge: JudgeServer) -> None:
    desk.write([f"Answer number {n}." for n in range(10)])

    def by_number(asked: Asked, number: int) -> Answer:
        score = int(asked.conversation.rpartition("number ")[2].rstrip("."))
        return Answer(json.dumps({"score": score, "reason": f"worth {score}"}))

    judge.behaviour = by_number
    result = desk.run("--output", "json")
    assert result.exit_code == 0, result.stderr
    assert desk.kept() == [7, 8, 9]
    removed = desk.rows("removed.jsonl")
    assert [row["line"] for row in removed] == [1, 2, 3, 4, 5, 6, 7]
    assert removed[3]["findings"] == [
        {"rule": "quality-score", "value": 3.0, "limit": 7.0, "detail": "worth 3", "action": "remove"}
    ]
    report = json.loads(result.stdout)
    assert report["sources"]["texts"]["scores"]["quality-score"]["3"] == 1
    assert report["judge"]["used"]["prompt_tokens"] == 1000


def test_repetition_is_scored_too_and_goes_to_a_person(desk: Desk, judge: JudgeServer) -> None:
    desk.write(["One.", "Two."])
    desk.set(judge, repetition={"threshold": 3, "action": "review"})

    def repetitive(asked: Asked, number: int) -> Answer:
        return Answer(
            '{"score": 2}' if "repetition" in asked.prompt[:40] and "Two" in asked.conversation else '{"score": 8}'
        )

    judge.behaviour = repetitive
    assert desk.run().exit_code == 0
    assert desk.kept() == [0]
    assert [row["findings"][0]["rule"] for row in desk.rows("review.jsonl")] == ["repetition-score"]
    assert len(judge.asked) == 4


def test_samples_with_media_are_asked_about_repetition_alone_unless_the_policy_insists(
    desk: Desk, judge: JudgeServer
) -> None:
    desk.write(["A cat.", "A dog."], image="x.png")
    desk.set(judge, repetition={"threshold": 3, "action": "review"})
    assert desk.run().exit_code == 0
    assert ["repetition" in asked.prompt[:40] for asked in judge.asked] == [True, True]
    desk.set(judge, sources={"texts": {"quality": "always", "exempt": ["repetition"]}})
    assert desk.run("--force").exit_code == 0
    assert ["repetition" in asked.prompt[:40] for asked in judge.asked[2:]] == [False, False]


def test_the_domain_chooses_the_prompt_and_the_key_comes_from_the_environment(desk: Desk, judge: JudgeServer) -> None:
    desk.write(["2 + 2 = 4."])
    desk.set(judge, sources={"te*": {"domain": "mathematics"}})
    result = desk.run()
    assert "mathematical problems" in judge.asked[0].prompt
    assert judge.asked[0].authorization == f"Bearer {KEY}"
    assert judge.asked[0].body["temperature"] == 0
    written = "".join(path.read_text(errors="replace") for path in desk.folder.rglob("*") if path.is_file())
    assert KEY not in written + result.output


def test_a_second_run_asks_nothing_and_the_same_text_is_asked_once(desk: Desk, judge: JudgeServer) -> None:
    desk.write(["Same."] * 20 + ["Other."])
    assert desk.run().exit_code == 0
    assert len(judge.asked) == 2
    assert desk.run("--force").exit_code == 0
    assert len(judge.asked) == 2
    assert len(desk.kept()) == 21


def test_a_dry_run_counts_and_asks_nothing(desk: Desk, judge: JudgeServer) -> None:
    desk.write(["Same."] * 20 + [f"Other {n}." for n in range(4)])
    desk.set(judge, requests_per_minute=60, price={"input": 1.0, "output": 2.0})
    result = desk.run("--dry-run", "--output", "json")
    judged = json.loads(result.stdout)["judge"]
    assert judged["questions"] == 5
    assert judged["minutes"] == pytest.approx(5 / 60)
    assert judged["cost"] == pytest.approx((judged["prompt_tokens"] + 2 * judged["answer_tokens"]) / 1e6)
    assert judge.asked == []
    assert sorted(path.name for path in desk.folder.iterdir()) == ["meta.json", "policy.yaml", "texts.jsonl"]


def test_answers_that_cannot_be_read_are_asked_again_and_then_go_to_a_person(desk: Desk, judge: JudgeServer) -> None:
    desk.write(["Garbage.", "Second time.", "Fine."])

    def garbage(asked: Asked, number: int) -> Answer:
        again = asked.body["temperature"] > 0
        return (
            Answer() if "Fine" in asked.conversation or ("Second" in asked.conversation and again) else Answer("7/10!")
        )

    judge.behaviour = garbage
    assert desk.run().exit_code == 0
    assert desk.kept() == [1, 2]
    assert len(judge.asked) == 3 + 2 + 1
    (row,) = desk.rows("review.jsonl")
    assert row["id"] == 0
    assert row["findings"][0]["detail"] == "no score: the answer is no JSON: '7/10!'"
    assert desk.run("--force").exit_code == 0
    assert len(judge.asked) == 6
    judge.behaviour = judge_server.good
    assert desk.run("--force", "--ask-unreadable").exit_code == 0
    assert len(judge.asked) == 7
    assert desk.kept() == [0, 1, 2]


@pytest.mark.parametrize("raw", [b"<html>busy</html>", b'"a text"', b'{"choices": []}', b"{}"])
def test_an_answer_that_is_no_completion_is_no_score_and_is_asked_for_again(
    desk: Desk, judge: JudgeServer, raw: bytes
) -> None:
    desk.write(["One."])
    judge.behaviour = lambda asked, number: Answer(raw=raw)
    result = desk.run()
    assert result.exit_code == 0, result.output
    assert [row["findings"][0]["detail"] for row in desk.rows("review.jsonl")] == [
        "no score: the endpoint's answer is no chat completion"
    ]
    judge.behaviour = judge_server.good
    assert desk.run("--force").exit_code == 0
    assert desk.kept() == [0]


def test_a_busy_endpoint_is_asked_again_after_the_time_it_names(desk: Desk, judge: JudgeServer) -> None:
    desk.write([f"Answer {n}." for n in range(6)])
    desk.set(judge, concurrency=2)
    judge.behaviour = lambda asked, number: (
        Answer("slow down", 429, {"Retry-After": "1"})
        if number == 0
        else Answer("oops", 500)
        if number == 3
        else Answer()
    )
    assert desk.run().exit_code == 0
    assert len(desk.kept()) == 6
    assert len(judge.asked) == 8
    first = judge.asked[0]
    again = [asked for asked in judge.asked if asked.conversation == first.conversation][1]
    # The clocks of both sides are the same one, and a sleep never ends early.
    assert again.at - first.at >= 1.0
    # The other worker had one request under way; it starts no further one in the meantime.
    assert len([asked for asked in judge.asked if first.at < asked.at < first.at + 0.9]) <= 1


def test_a_slow_endpoint_runs_into_the_time_limit(desk: Desk, judge: JudgeServer) -> None:
    desk.write(["One."])
    desk.set(judge, timeout_seconds=0.2, attempts=2)
    judge.behaviour = lambda asked, number: Answer(delay=5)
    result = desk.run()
    assert result.exit_code == UNAVAILABLE
    assert "did not answer in time, 2 times" in result.stderr
    assert not desk.output.exists()


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (Answer(f"Incorrect API key: {KEY}", 401), ExitCode.INVALID_CONFIG, "refuses the API key in OPENAI_API_KEY"),
        (Answer("no such model", 404), ExitCode.INVALID_CONFIG, "does not serve 'judge-1'"),
        (Answer("broken", 503), UNAVAILABLE, "answers HTTP 503, 2 times in a row"),
        (Answer("wait", 429, {"Retry-After": "4000"}), UNAVAILABLE, "wants no request for 4000 s"),
        (Answer(f"bad field, {KEY}", 400), ExitCode.INVALID_CONFIG, "rejects every request, 8 so far"),
        (Answer(raw=b"<html>hello</html>"), ExitCode.INVALID_CONFIG, "is no chat completion; correct judge.base_url"),
        (Answer("teapot", 418), ExitCode.INVALID_CONFIG, "answers HTTP 418: teapot"),
    ],
    ids=["key", "model", "broken", "long wait", "bad request", "no such server", "other"],
)
def test_faults_of_the_endpoint_end_the_run_with_their_cause(
    desk: Desk, judge: JudgeServer, answer: Answer, code: int, message: str
) -> None:
    desk.write([f"Answer {n}." for n in range(9)])
    desk.set(judge, attempts=2)
    judge.behaviour = lambda asked, number: answer
    result = desk.run()
    assert result.exit_code == code
    assert message in result.stderr
    assert KEY not in result.output
    assert not desk.output.exists()


def test_nobody_listens(desk: Desk, judge: JudgeServer) -> None:
    desk.write(["One."])
    desk.set(judge, attempts=2, base_url="http://127.0.0.1:1/v1")
    result = desk.run()
    assert result.exit_code == UNAVAILABLE
    assert "endpoint http://127.0.0.1:1/v1 cannot be reached, 2 times; check judge.base_url" in result.stderr


def test_one_rejected_sample_goes_to_a_person_and_is_asked_again_next_time(desk: Desk, judge: JudgeServer) -> None:
    desk.write(["Too long for the model.", "Fine."])
    judge.behaviour = lambda asked, number: Answer("context length", 400) if "Too" in asked.conversation else Answer()
    assert desk.run().exit_code == 0
    (row,) = desk.rows("review.jsonl")
    assert row["findings"][0]["detail"] == "no score: HTTP 400: context length"
    judge.behaviour = judge_server.good
    assert desk.run("--force").exit_code == 0
    assert desk.kept() == [0, 1]
    assert len(judge.asked) == 3


def test_the_rate_is_kept(desk: Desk, judge: JudgeServer) -> None:
    desk.write([f"Answer {n}." for n in range(60)])
    desk.set(judge, requests_per_minute=1200, concurrency=32)
    assert desk.run().exit_code == 0
    times = sorted(asked.at for asked in judge.asked)
    # A burst of one second's worth, 20, then 1180 a minute; ten more for requests that are slow on their way.
    for start in times:
        assert len([at for at in times if start <= at < start + 1]) <= 20 + 20 + 10
    assert times[-1] - times[0] >= (60 - 20 - 10) / (1180 / 60)


def test_a_text_that_no_request_can_hold_goes_to_a_person_unasked(desk: Desk, judge: JudgeServer) -> None:
    desk.write(["Half a pair: \ud83d."])
    assert desk.run().exit_code == 0
    assert not judge.asked
    (row,) = desk.rows("review.jsonl")
    assert "stands without its other half" in row["findings"][0]["detail"]


def stopped_in_the_middle(desk: Desk, judge: JudgeServer, by: signal.Signals) -> tuple[int, str]:
    """Exit code and error output of a process that got a signal after its twentieth question."""
    command = [sys.executable, "-m", "internvl_trainer.curation", *desk.arguments()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(judge.asked) < 20 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(by)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_killed_in_the_middle_it_goes_on_where_it_was(desk: Desk, judge: JudgeServer) -> None:
    desk.write([f"Answer {n}." for n in range(60)])
    desk.set(judge, concurrency=4)
    judge.behaviour = lambda asked, number: Answer(delay=0.05)
    assert stopped_in_the_middle(desk, judge, signal.SIGKILL)[0] == -signal.SIGKILL
    before = len(judge.asked)
    assert 20 <= before < 60
    assert not desk.output.exists()

    judge.behaviour = judge_server.good
    assert desk.run().exit_code == 0
    assert len(desk.kept()) == 60
    times = Counter(asked.conversation for asked in judge.asked)
    assert len(times) == 60
    # Only what was under way when it was killed, one question for each connection, is asked again, and once.
    assert max(times.values()) <= 2
    assert sum(count == 2 for count in times.values()) <= 4


def test_interrupted_it_says_how_to_go_on(desk: Desk, judge: JudgeServer) -> None:
    desk.write([f"Answer {n}." for n in range(60)])
    desk.set(judge, concurrency=4)
    judge.behaviour = lambda asked, number: Answer(delay=0.05)
    code, errors = stopped_in_the_middle(desk, judge, signal.SIGINT)
    assert code == ExitCode.INTERRUPTED
    assert "scores so far are in the journal, and the same command goes on" in errors
    assert not desk.output.exists()


def test_the_commands_of_the_page_work(
    desk: Desk, judge: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "tasks" / "filter-data.md").read_text()
    commands = re.findall(r"^    internvl data (filter .+)$", page, re.MULTILINE)
    assert len(commands) == 4
    (policy,) = re.findall(r"```yaml\n(.+?)```", page, re.DOTALL)
    desk.write(["Yes, the answer is four.", "the cat sat " * 40])
    desk.policy.write_text(policy.replace("http://judge:8000/v1", judge.url))
    monkeypatch.chdir(tmp_path)
    for command in commands:
        if "--apply-review" not in command:
            shutil.rmtree("filtered", ignore_errors=True)
        elif not Path("filtered").exists():
            assert (
                CliRunner().invoke(data, ["filter", "meta.json", "filtered", "--policy", "policy.yaml"]).exit_code == 0
            )
        result = CliRunner().invoke(data, command.split())
        assert result.exit_code == 0, result.output
    assert Path("final/review.jsonl").exists()


def test_two_runs_cannot_share_a_journal(desk: Desk, judge: JudgeServer) -> None:
    from internvl_trainer.curation.filter.judge import journal

    desk.write(["One."])
    with journal.opened(Path(f"{desk.output}.scores")):
        result = desk.run()
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert "another run uses it" in result.stderr
