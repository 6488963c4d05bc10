"""`internvl data` as a person runs it: a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES = Path(__file__).parents[3] / "trainer/examples"
TOKENIZER = str(EXAMPLES / "data/tokenizer")
SECONDS = 120
"""That any of these commands may take."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def document(self) -> dict[str, Any]:
        """What it printed, as JSON."""
        parsed: dict[str, Any] = json.loads(self.output)
        return parsed


def begin(*arguments: object, cache: Path) -> subprocess.Popen[str]:
    """Start `internvl data` with these arguments."""
    command = [sys.executable, "-m", "internvl_trainer.curation", *map(str, arguments), "--cache", str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def end(process: subprocess.Popen[str]) -> Ended:
    """Wait for a command."""
    try:
        output, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return Ended(process.returncode, output, errors)


def run(*arguments: object, cache: Path) -> Ended:
    """Run `internvl data` with these arguments."""
    return end(begin(*arguments, cache=cache))


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.05)
