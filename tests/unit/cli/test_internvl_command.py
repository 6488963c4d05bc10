"""`internvl` joins what is installed, and says what to install where something is missing."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner

from internvl_cli import main as cli
from internvl_operator.api import crd

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]


def invoke(*arguments: str, stdin: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installation whose trainer commands cannot be imported, for lack of a module."""
    package = tmp_path / "internvl_trainer_elsewhere"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.EXTRAS, package.name, "trainer")
    entries = {
        "train": EntryPoint("train", f"{package.name}.cli:train", cli.ENTRY_POINT_GROUP),
        "crd": EntryPoint("crd", "internvl_operator.cli:crd", cli.ENTRY_POINT_GROUP),
    }

    def installed(*, group: str, name: str | None = None) -> list[EntryPoint]:
        assert group == cli.ENTRY_POINT_GROUP
        return [entry for entry in entries.values() if name in (None, entry.name)]

    monkeypatch.setattr(cli, "entry_points", installed)


def test_the_operators_commands_are_there() -> None:
    code, output = invoke("--help")

    assert code == 0
    assert {"crd", "plan", "watch", "train", "checkpoint"} <= {
        line.split()[0] for line in output.splitlines() if line[2:]
    }


def test_an_unknown_command_is_a_usage_error() -> None:
    assert invoke("dance")[0] == 2


@pytest.mark.usefixtures("without_torch")
def test_a_command_whose_packages_are_missing_names_the_extra() -> None:
    code, output = invoke("train")

    assert code == cli.MissingExtraError.exit_code
    assert "a_module_that_nobody_has" in output
    assert "pip install 'internvl-operator[trainer]'" in output


@pytest.mark.usefixtures("without_torch")
def test_the_other_commands_work_without_them_and_help_says_what_does_not() -> None:
    assert invoke("crd")[0] == 0
    code, output = invoke("--help")
    assert code == 0
    assert "not available" in output


def test_crd_prints_what_the_models_say() -> None:
    assert invoke("crd") == (0, crd.to_yaml())


def test_crd_writes_its_copies_and_tells_when_they_are_stale(tmp_path: Path) -> None:
    assert invoke("crd", "--check", "--root", str(tmp_path))[0] == 1
    assert invoke("crd", "--write", "--root", str(tmp_path))[0] == 0
    assert invoke("crd", "--check", "--root", str(tmp_path))[0] == 0
    (tmp_path / crd.COPIES[0]).write_text("edited by hand")
    code, output = invoke("crd", "--check", "--root", str(tmp_path))
    assert code == 1
    assert str(crd.COPIES[0]) in output


def test_plan_shows_stages_and_their_layout() -> None:
    code, output = invoke("plan", str(ROOT / "examples/internvl2-5-8b.yaml"))

    assert code == 0
    assert "stage1-5" in output
    assert "2 x 1 x 32" in output


def test_plan_shows_what_each_stage_trains_on_and_the_jobs_that_index_it() -> None:
    code, output = invoke("plan", str(ROOT / "examples/internvl2-5-8b-mixture.yaml"))

    assert code == 0
    assert "s3://data/pretrain.json" in output
    assert "4 sources" in output
    assert "indexes the data of stage1, stage1-5" in output
    assert "indexes the data of stage2" in output


def test_plan_tells_the_memory_and_the_layers_of_each_pipeline_stage() -> None:
    code, output = invoke("plan", "-o", "json", str(ROOT / "examples/internvl2-5-78b.yaml"))

    assert code == 0
    (run,) = json.loads(output)
    warm_up, tuning = run["stages"]
    assert tuning["pipelineLayers"] == [29, 51]
    assert [len(stage["memoryGiB"]) for stage in run["stages"]] == [2, 2]
    assert max(warm_up["memoryGiB"]) < max(tuning["memoryGiB"]) < 80


def test_plan_as_json_holds_what_the_trainer_will_get() -> None:
    code, output = invoke("plan", "-o", "json", str(ROOT / "examples/tiny-1b-like.yaml"))

    assert code == 0
    (run,) = json.loads(output)
    assert run["startsFrom"] == {"vision": "run tiny-8b-like, stage stage1-5"}
    assert [stage["layout"] for stage in run["stages"]] == [{"tensor": 2, "pipeline": 1, "data": 1}] * 2
    assert len({stage["indexJob"] for stage in run["stages"]}) == 1
    assert run["problems"] == []


def test_plan_fails_for_a_layout_that_does_not_fit_and_names_the_field() -> None:
    text = (ROOT / "examples/tiny-1b-like.yaml").read_text().replace("{tensor: 2}", "{tensor: 3}")

    code, output = invoke("plan", "-", stdin=text)

    assert code == 1
    assert "spec.parallelism.tensor" in output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: ConfigMap", "holds no InternVLTraining"),
        ("a: [", "is no YAML"),
        (
            "{apiVersion: training.internvl.dev/v1alpha1, kind: InternVLTraining, metadata: {name: a}, spec: {}}",
            "spec.model: Field required",
        ),
    ],
)
def test_plan_says_what_is_wrong_with_a_file(text: str, words: str) -> None:
    code, output = invoke("plan", "-", stdin=text)

    assert code == 1
    assert words in output
