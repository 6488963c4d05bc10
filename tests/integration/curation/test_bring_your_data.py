"""docs/tasks/bring-your-data.md: its commands work as they stand, on the data of the repository."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from internvl_operator.api.data import DataSpec
from internvl_trainer.data import Tokenizer
from internvl_trainer.data.tokenizer import INTERNVL_TOKENS
from internvl_trainer.storage import open_store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/tasks/bring-your-data.md").read_text()
COMMANDS = re.findall(r"^    internvl (.+)$", PAGE, re.MULTILINE)
SNIPPETS = re.findall(r"^```python\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much of a clone as the page needs."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "trainer/examples", folder / "trainer/examples")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(clone: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(clone))
    internvl = [sys.executable, "-c", "from internvl_cli.main import main; main()", *command.split()]
    ended = subprocess.run(internvl, cwd=clone, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_it_shows_the_commands_that_there_are() -> None:
    shown = {command.split()[1] for command in COMMANDS if command.startswith("data ")}
    assert shown == {"check", "index", "report"}, "filter has a page of its own"
    assert any(command.startswith("train ") for command in COMMANDS)


def test_an_internvltraining_takes_the_mixture_that_it_shows() -> None:
    (shown,) = re.findall(r"^```yaml\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
    spec = DataSpec.model_validate(yaml.safe_load(shown)["data"])
    assert spec.mixture is not None
    assert [(source.name, source.max_tiles, source.repeat) for source in spec.mixture] == [
        ("charts", 24, "2.5"),
        ("clips", 1, "1"),
    ]


def test_a_slow_tokenizer_is_converted_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fast = json.loads((ROOT / "trainer/examples/data/tokenizer/tokenizer.json").read_text())
    special = {token["content"] for token in fast["added_tokens"]}
    base = tmp_path / "InternVL2_5-8B"
    base.mkdir()
    (base / "vocab.json").write_text(json.dumps({k: v for k, v in fast["model"]["vocab"].items() if k not in special}))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in fast["model"]["merges"]]
    (base / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (base / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    names = {"AutoTokenizer": AutoTokenizer}
    convert, extend = SNIPPETS
    exec(convert, names)
    names["tokenizer"].add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    exec(extend, names)
    converted = Tokenizer.load("tokenizer", open_store(), family="qwen2.5")
    text = "What is in the picture?"
    assert converted.decode(converted.encode(text)) == text
    first, *others = (converted.encode(token) for token in INTERNVL_TOKENS)
    assert others == [[first[0] + number] for number in range(1, len(INTERNVL_TOKENS))]
