"""What can be known about the images without building them: inputs exist, packages are locked, nobody is root."""

import fnmatch
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"operator": "internvl_operator.main", "trainer": "internvl_trainer.launch"}


class Instruction(NamedTuple):
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


class Stage(NamedTuple):
    base: str
    name: str
    instructions: list[Instruction]

    def all(self, name: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.name == name]


def parse(text: str) -> list[Stage]:
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, lines)):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, stage = rest.split()
            stages.append(Stage(base, stage, []))
        elif stages:
            stages[-1].instructions.append(Instruction(name, rest))
        else:
            assert name == "ARG", f"{name} before the first FROM"
    return stages


STAGES = {stage.name: stage for stage in parse((ROOT / "Dockerfile").read_text())}


def is_sent(path: str) -> bool:
    """Whether a path of the repository enters the build, by the rules of .dockerignore: the last match counts."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").strip()
        if not pattern or pattern.startswith("#"):
            continue
        covers = pattern.removeprefix("**/")
        candidates = [path, *map(str, Path(path).parents)]
        if pattern.startswith("**/"):
            candidates += Path(path).parts
        if any(fnmatch.fnmatch(candidate, covers) for candidate in candidates if candidate != "."):
            sent = line.startswith("!")
    return sent


def locked(name: str) -> dict[str, str]:
    """Packages and versions of a file in constraints/."""
    text = (ROOT / "constraints" / name).read_text()
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, flags=re.MULTILINE))


def test_both_targets_are_there_and_the_operator_is_the_default() -> None:
    assert TARGETS.keys() <= STAGES.keys()
    assert list(STAGES)[-1] == "operator"


def test_every_base_can_be_replaced() -> None:
    assert {stage.base for stage in STAGES.values()} == {
        "${BASE_IMAGE}",
        "${TRAINER_BASE_IMAGE}",
        "${ATTENTION_WHEELS_IMAGE}",
    }


@pytest.mark.parametrize("copied", [copied for stage in STAGES.values() for copied in stage.all("COPY")], ids=str)
def test_what_is_copied_exists_and_is_sent(copied: Instruction) -> None:
    *sources, _ = (word for word in copied.words if not word.startswith("--"))
    origin = next((word.removeprefix("--from=") for word in copied.words if word.startswith("--from=")), None)
    if origin is not None:
        assert origin in STAGES
        return
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_sent(source), f"{source} is kept out by .dockerignore"


@pytest.mark.parametrize(
    "path", [".git/config", ".state/cluster/kubeconfig", ".venv/bin/python", "s3.env", "tests/x.py"]
)
def test_nothing_else_is_sent(path: str) -> None:
    assert not is_sent(path)


def test_caches_are_not_sent() -> None:
    assert is_sent("operator/internvl_operator/main.py")
    assert not is_sent("operator/internvl_operator/__pycache__/main.cpython-312.pyc")


def test_nothing_is_fetched_by_address() -> None:
    for stage in STAGES.values():
        assert not stage.all("ADD")
        for run in stage.all("RUN"):
            assert not re.search(r"https?://|curl|wget|git clone", run.text)


def test_every_package_is_locked_by_hash() -> None:
    installs = [run for stage in STAGES.values() for run in stage.all("RUN") if " install " in run.text]
    assert installs
    for run in installs:
        local = "--no-index" in run.words and any(word.startswith("/wheels") for word in run.words)
        assert "--no-deps" in run.words
        assert local or {"--require-hashes", "--only-binary=:all:"} <= set(run.words)


@pytest.mark.parametrize("target", TARGETS)
def test_each_image_installs_its_own_lock_file(target: str) -> None:
    packages = STAGES[f"{target}-packages"]
    assert any(f"constraints/{target}.txt" in run.words for run in packages.all("RUN"))


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_has_what_the_development_environment_has(target: str) -> None:
    development = locked("dev.txt")
    assert locked(f"{target}.txt").items() <= development.items()


def test_the_wheel_is_built_with_the_build_requirements_of_the_project() -> None:
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {tuple(requirement.split("==")) for requirement in requires} <= locked("build.txt").items()


@pytest.mark.parametrize(("target", "module"), TARGETS.items())
def test_each_image_runs_as_nobody_and_starts_the_right_module(target: str, module: str) -> None:
    stage = STAGES[target]
    (user,) = stage.all("USER")
    assert user.text == "65532:65532"
    assert stage.instructions.index(user) > max(map(stage.instructions.index, stage.all("RUN")), default=-1)
    (entrypoint,) = stage.all("ENTRYPOINT")
    assert entrypoint.text == f'["python", "-m", "{module}"]'


@pytest.mark.parametrize("target", TARGETS)
def test_no_tool_of_the_build_reaches_an_image(target: str) -> None:
    copied = STAGES[target].all("COPY")
    assert [instruction.words[:2] for instruction in copied] == [[f"--from={target}-packages", "/opt/internvl"]]
    assert any("--without-pip" in run.words for run in STAGES[f"{target}-packages"].all("RUN"))
