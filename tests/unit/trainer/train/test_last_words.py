"""The termination message says why a pod ended, in the words of the process that failed first."""

from pathlib import Path

import pytest

from internvl_trainer.train.last_words import LIMIT, leave

pytestmark = pytest.mark.unit


def test_the_first_to_fail_is_heard_and_those_that_follow_are_not(tmp_path: Path) -> None:
    file = tmp_path / "termination-log"
    file.touch()
    assert leave("DataError: no such\n  picture", file)
    assert not leave("ConnectionError: my peer is gone", file)
    assert file.read_text() == "DataError: no such picture"


def test_a_long_message_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "termination-log"
    file.touch()
    assert leave("x" * 10_000, file)
    assert file.stat().st_size == LIMIT


def test_outside_a_pod_nothing_is_written(tmp_path: Path) -> None:
    assert not leave("lost", tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
