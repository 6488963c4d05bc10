"""The commands as a user runs them, in this process."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import Manifest, ManifestRef
from internvl_trainer.convert.cli import export, import_

LAYOUT = {"native": ("--layout", "native"), "transformers": ("--layout", "transformers", "--image-token", "7")}
"""Options for a layout; the tiny vocabularies are no released ones."""


def run_import(*arguments: Any) -> dict[str, Any]:
    """What `internvl import` reports."""
    return _run(import_, arguments)


def run_export(*arguments: Any, layout: str = "native") -> dict[str, Any]:
    """What `internvl export` reports."""
    return _run(export, (*arguments, *LAYOUT[layout]))


def refused(command: Any, *arguments: Any) -> tuple[int, str]:
    """Exit code and message of a command that must fail."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code
    return result.exit_code, result.stderr


def ref_of(report: dict[str, Any]) -> ManifestRef:
    """The manifest that an import has committed."""
    return ManifestRef(uri=report["manifest"], sha256=report["sha256"])


def manifest_of(report: dict[str, Any]) -> Manifest:
    """Its content, where it lies in a folder."""
    return Manifest.from_bytes(Path(report["manifest"]).read_bytes())


def init_of(report: dict[str, Any]) -> dict[Component, ManifestRef]:
    """A job's `init` for a model that has all its components from there."""
    return dict.fromkeys(Component, ref_of(report))


def _run(command: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    result = CliRunner().invoke(command, [*(str(argument) for argument in arguments), "--output", "json"])
    assert result.exit_code == 0, f"{result.stderr}{result.exception!r}"
    report: dict[str, Any] = json.loads(result.stdout)
    return report
