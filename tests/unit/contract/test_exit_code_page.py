"""The documented table of exit codes is the one that the code goes by."""

import re
from pathlib import Path

import pytest

from internvl_trainer.contract.exit_codes import ExitCode, is_retryable

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "exit-codes.md"
ROW = re.compile(r"^\| (?P<code>\d+) \| `(?P<name>\w+)` \|.*\| (?P<again>[^|]+) \|$", re.MULTILINE)


def test_every_code_is_on_the_page_with_its_name_and_whether_another_attempt_helps():
    rows = {int(row["code"]): row for row in ROW.finditer(PAGE.read_text(encoding="utf-8"))}
    assert {code: row["name"] for code, row in rows.items()} == {int(code): code.name for code in ExitCode}
    for code, row in rows.items():
        assert row["again"].startswith("yes") == is_retryable(code), row[0]
