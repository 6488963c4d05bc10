"""`internvl checkpoint` as a command: what it costs to start, what it shows on a terminal, how it ends when stopped."""

import errno
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from internvl_trainer.checkpoint import copying, verify
from internvl_trainer.checkpoint.cli import SUBCOMMANDS, checkpoint
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.storage import open_store
from tests.unit.trainer.checkpoint.bucket import Bucket

pytestmark = pytest.mark.unit


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A checkpoint in a folder."""
    bucket = Bucket(f"file://{tmp_path}/runs", datetime.now(UTC))
    uri = bucket.checkpoint(20)
    bucket.pour(open_store())
    return uri


def modules_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def test_the_group_costs_no_sdk_and_its_commands_no_torch(uri: str) -> None:
    assert not {"boto3", "pydantic", "torch"} & modules_after("import internvl_trainer.checkpoint.lazy_group")
    assert not {"boto3", "torch"} & modules_after("import internvl_trainer.checkpoint.cli")
    invoked = "from click.testing import CliRunner; from internvl_trainer.checkpoint.cli import checkpoint"
    lines = [["verify", uri], ["show", uri], ["publish", uri, "--component", "vision"], ["gc", "/nowhere"]]
    lines += [["copy", uri, f"{uri.partition('/runs/')[0]}/copy"], ["pin", uri], ["ls", "/nowhere"]]
    runs = [f"assert CliRunner().invoke(checkpoint, {line!r}).exit_code == 0, {line!r}" for line in lines]
    assert not {"torch", "megatron"} & modules_after("\n".join([invoked, *runs]))


def test_help_lists_the_subcommands_without_importing_them() -> None:
    shown = CliRunner().invoke(checkpoint, ["--help"]).stdout
    assert all(subcommand.summary in shown for subcommand in SUBCOMMANDS.values())
    assert CliRunner().invoke(checkpoint, ["dance"]).exit_code == 2


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_reaches_a_store_by_the_same_options(name: str) -> None:
    shown = CliRunner().invoke(checkpoint, [name, "--help"]).stdout
    for option in ("--endpoint-url", "--region", "--virtual-host-style", "--ca-file", "--output"):
        assert option in shown


def test_bars_are_for_terminals_alone(uri: str, tmp_path: Path) -> None:
    for command in (["verify", uri], ["copy", uri, str(tmp_path / "copy")]):
        assert CliRunner().invoke(checkpoint, command).stderr == ""
    seen = CliRunner(env={"TTY_COMPATIBLE": "1", "COLUMNS": "120"}).invoke(checkpoint, ["verify", uri])
    assert "reading" in seen.stderr
    assert "23/23 bytes" in seen.stderr
    assert "reading" not in seen.stdout


def test_ctrl_c_ends_a_command_with_the_code_for_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "read_all", interrupted)
    result = CliRunner().invoke(checkpoint, ["verify", uri])
    assert result.exit_code == ExitCode.INTERRUPTED
    assert "interrupted" in result.stderr


def test_a_full_disk_is_an_error_without_a_traceback(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/copy")

    monkeypatch.setattr(copying, "_upload", full)
    result = CliRunner().invoke(checkpoint, ["copy", uri, str(tmp_path / "copy")])
    assert result.exit_code == ExitCode.STORE_UNAVAILABLE
    assert result.stderr == "Error: /scratch/copy: no space left on device; free space or name another place\n"
