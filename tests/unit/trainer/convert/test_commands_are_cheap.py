"""`internvl --help` imports every command, so none may bring torch along."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit


def test_the_commands_bring_neither_torch_nor_the_store() -> None:
    program = "import sys, internvl_trainer.convert.cli; print({'torch', 'megatron', 'boto3'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"
