"""`internvl train` as a person runs it: the example in its 50 steps, into a pipe and on a terminal."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
COMMAND = [str(Path(sys.executable).with_name("internvl")), "train", "--config", "trainer/examples/tiny.yaml"]
SECONDS = 200
COLOURS = re.compile(r"\x1b\[\d*m")


def into(folder: Path) -> list[str]:
    """The example's command with its checkpoints elsewhere."""
    return [*COMMAND, "--set", f"storage.uri=file://{folder}"]


def test_the_example_learns_in_fifty_steps_and_says_how_it_goes(tmp_path: Path) -> None:
    ended = subprocess.run(into(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = re.findall(
        r"step (\d+)/50  loss ([\d.]+)  [\d,]+ tok/s  [\d.]+ tiles/s  padding [\d.]+ %  eta [\d:]+", ended.stdout
    )
    assert [int(step) for step, _ in lines] == list(range(1, 51))
    losses = [float(loss) for _, loss in lines]
    assert losses[-1] < losses[0] / 5
    assert "attention: torch over packs, torch inside tiles" in ended.stdout
    assert len(list(tmp_path.glob("tiny-*/train/step-00000050/a1/MANIFEST.json"))) == 1


def test_on_a_terminal_progress_stays_in_one_line_also_on_two_processes(tmp_path: Path) -> None:
    command = [*into(tmp_path), "--set", "optimization.steps=3", "--set", "layout.tensor=2"]
    code, stream = on_pty(command)
    assert code == 0, stream
    assert re.search(r"━ step 3/3  loss [\d.]+  [\d,]+ tok/s  [\d.]+ tiles/s  padding [\d.]+ %  eta 0:00:00", stream)
    assert "INFO step" not in stream
    assert "committed checkpoint" in stream


def test_the_example_is_cut_into_four_processes_as_its_header_says(tmp_path: Path) -> None:
    header = (ROOT / "trainer/examples/tiny.yaml").read_text()
    grid = ["--set", "layout.tensor=2", "--set", "layout.pipeline=2"]
    assert " ".join(["trainer/examples/tiny.yaml", *grid]) in header
    command = [*into(tmp_path), *grid, "--set", "optimization.steps=2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "step 2/2  loss" in ended.stdout


def on_pty(command: list[str]) -> tuple[int, str]:
    """Run a command on a terminal of its own: exit code, and all that it wrote there but for colours."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=theirs, stderr=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    written = b""
    try:
        while chunk := _read(ours):
            written += chunk
        return process.wait(SECONDS), COLOURS.sub("", written.decode())
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(terminal: int) -> bytes:
    """Some output; nothing once the other side has been closed, which a terminal reports as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
