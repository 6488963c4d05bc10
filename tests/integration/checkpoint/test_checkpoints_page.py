"""docs/tasks/checkpoints.md: its commands work as they stand, and what they make starts a run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from internvl_operator.api.spec import VisionSpec
from internvl_trainer.checkpoint.cli import SUBCOMMANDS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/tasks/checkpoints.md").read_text()
COMMANDS = re.findall(r"^    internvl (.+)$", PAGE, re.MULTILINE)
TRAIN, *OTHERS = COMMANDS


class Clone:
    """As much of a clone as the page needs, and its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "trainer/examples", folder / "trainer/examples")

    def internvl(self, command: str) -> str:
        main = [sys.executable, "-c", "from internvl_cli.main import main; main()", *command.split()]
        ended = subprocess.run(main, cwd=self.folder, capture_output=True, text=True, timeout=200, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def steps(self) -> dict[int, dict[str, Any]]:
        rows = json.loads(self.internvl("checkpoint ls runs -o json"))
        return {row["step"]: row for row in rows}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the page's run has been trained."""
    clone = Clone(tmp_path_factory.mktemp("clone"))
    clone.internvl(TRAIN)
    assert set(clone.steps()) == {2, 4, 6}
    return clone


def test_it_shows_the_commands_that_there_are() -> None:
    assert {command.split()[1] for command in OTHERS if command.startswith("checkpoint ")} == set(SUBCOMMANDS)


@pytest.mark.parametrize("command", OTHERS)
def test_every_command_works(clone: Clone, command: str) -> None:
    """In the order of the page; older than 7d there is nothing, so --delete removes what the policy lets go."""
    clone.internvl(command)


def test_what_is_left_is_what_the_page_says(clone: Clone) -> None:
    left = clone.steps()
    assert {step: row["published"] for step, row in left.items()} == {4: [], 6: ["vision"]}
    assert not any(row["pinned"] for row in left.values())
    assert (clone.folder / "models/step-4/published/projector.json").exists()


def test_the_copied_vit_starts_a_run_with_the_real_engine_at_another_layout(clone: Clone) -> None:
    place = "models/vit/published/vision.json"
    shown = json.loads(clone.internvl(f"checkpoint show {place} -o json"))
    lineage = shown["manifest"]["lineage"]
    assert [link["manifest"]["uri"].rpartition("/runs/")[2] for link in lineage] == [
        "first/train/step-00000006/a1/MANIFEST.json"
    ]
    start = f"init.vision.uri=file://{clone.folder}/{place} --set init.vision.sha256={shown['sha256']}"
    settings = "run.uid=second --set optimization.steps=1 --set layout.tensor=2 --set storage.uri=file://../../others"
    clone.internvl(f"train --config trainer/examples/tiny.yaml --set {settings} --set {start}")
    (row,) = json.loads(clone.internvl("checkpoint ls others -o json"))
    second = json.loads(clone.internvl(f"checkpoint show {row['uri']} -o json"))["manifest"]
    assert second["vision_lineage"] == lineage
    assert second["parents"]["vision"]["sha256"] == shown["sha256"]


def test_an_internvltraining_takes_the_snippet() -> None:
    (shown,) = re.findall(r"^```yaml\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
    vision = VisionSpec.model_validate(yaml.safe_load(shown)["spec"]["vision"])
    assert vision.from_.uri is not None
