"""The device shim is one module, is put in place on purpose, and only where there is no CUDA."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from internvl_trainer.engine import cpu_shim

pytestmark = pytest.mark.unit

TRAINER = Path(cpu_shim.__file__).parents[1]

IMPORT_ALONE = """
import torch
names = [(torch, "empty"), (torch, "compile"), (torch.cuda, "current_device"), (torch.Tensor, "type")]
before = [getattr(*name) for name in names]
from internvl_trainer.model.projector import pixel_unshuffle
import internvl_trainer.model.internvl, internvl_trainer.engine.megatron
assert [getattr(*name) for name in names] == before, "an import changed torch"
print(tuple(pixel_unshuffle(torch.zeros(1, 4, 4, 2)).shape))
"""


def test_the_model_can_be_imported_without_the_shim_and_without_a_word() -> None:
    alone = subprocess.run([sys.executable, "-c", IMPORT_ALONE], capture_output=True, text=True, timeout=120)
    assert (alone.returncode, alone.stdout, alone.stderr) == (0, "(1, 2, 2, 8)\n", "")


def test_where_there_is_cuda_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = dict(vars(torch)), dict(vars(torch.cuda)), torch.Tensor.type
    assert cpu_shim.install() is False
    assert (dict(vars(torch)), dict(vars(torch.cuda)), torch.Tensor.type) == before


def patches_of_torch(path: Path) -> Iterator[int]:
    """Lines of a source file that give a name of torch or megatron another meaning."""
    for node in ast.walk(ast.parse(path.read_text())):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = [each for each in node.targets if isinstance(each, ast.Attribute)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            targets = node.args[:1]
        if any(ast.unparse(each).startswith(("torch", "megatron")) for each in targets):
            yield node.lineno


def test_no_other_module_patches_torch() -> None:
    patching = {path.relative_to(TRAINER).as_posix() for path in TRAINER.rglob("*.py") if list(patches_of_torch(path))}
    assert patching == {"engine/cpu_shim.py"}
