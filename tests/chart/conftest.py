"""The chart, rendered by the real helm."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import build
from hack.cluster.paths import REPOSITORY, State

CHART = REPOSITORY / "charts" / "internvl-operator"
NAMESPACE = "platform"

JsonObject = dict[str, Any]
RenderAll = Callable[..., list[JsonObject]]
Render = Callable[..., dict[tuple[str, str], JsonObject]]
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Runs helm, which is built where it is missing."""
    state = State()
    program = state.binary("helm")
    if not program.exists():
        build.build_all(state, only=("helm",))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def render_all(helm: Helm, tmp_path: Path) -> RenderAll:
    """Renders the chart with values, and gives all objects."""

    def render_all(**values: Any) -> list[JsonObject]:
        path = tmp_path / "values.json"
        path.write_text(json.dumps(values))
        rendered = helm("template", "release", str(CHART), f"--namespace={NAMESPACE}", f"--values={path}")
        assert rendered.returncode == 0, rendered.stderr
        return [body for body in yaml.safe_load_all(rendered.stdout) if body]

    return render_all


@pytest.fixture
def render(render_all: RenderAll) -> Render:
    """The same by (kind, name), for one served namespace."""
    return lambda **values: {(body["kind"], body["metadata"]["name"]): body for body in render_all(**values)}
