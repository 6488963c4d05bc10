"""A job as a person writes it becomes the operator's document, or is refused with the line that is wrong."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.launch.job_file import JobFileError, read_job
from tests.integration.trainer.world import job

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

SHORT = """\
model: tiny-1b-like
data:
  meta: data/meta.json
  tokenizer: s3://bucket/tokenizer
optimization:
  steps: 20
  peak_lr: 1e-3
  global_batch: 4
checkpoint: {every_steps: 10}
storage: {uri: "file://../checkpoints"}
"""


def write(folder: Path, text: str, name: str = "My job.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(path: Path, *changes: str) -> str:
    with pytest.raises(JobFileError) as refused:
        read_job(path, changes, now=NOW)
    assert refused.value.exit_code is ExitCode.INVALID_CONFIG
    return str(refused.value)


def test_ten_lines_are_a_job(tmp_path: Path) -> None:
    read = read_job(write(tmp_path, SHORT), now=NOW)
    assert read.model == MODELS["tiny-1b-like"]
    assert (read.run.name, read.run.uid, read.stage, read.attempt) == ("my-job", "my-job-20260102-030405", "train", 1)
    assert (read.layout.world, len(read.trainable), read.optimization.peak_lr) == (1, 3, 1e-3)


def test_a_run_that_is_to_go_on_is_named_by_its_uid_alone(tmp_path: Path) -> None:
    read = read_job(write(tmp_path, SHORT), ["run.uid=my-job-20251231-235959", "attempt=2"], now=NOW)
    assert (read.run.uid, read.run.name, read.attempt) == ("my-job-20251231-235959", "my-job", 2)


def test_relative_paths_start_at_the_files_folder_and_other_uris_stay(tmp_path: Path) -> None:
    read = read_job(write(tmp_path, SHORT), now=NOW)
    assert read.data.meta == f"{tmp_path}/data/meta.json"
    assert read.data.tokenizer == "s3://bucket/tokenizer"
    assert read.storage.uri == f"file://{tmp_path.parent}/checkpoints"


def test_a_mixtures_paths_and_the_index_start_at_the_files_folder_too(tmp_path: Path) -> None:
    mixture = "mixture: [{name: a, annotation: a.jsonl, root: ../images}, {name: b, annotation: 's3://bucket/b.jsonl'}]"
    read = read_job(write(tmp_path, SHORT.replace("meta: data/meta.json", f"{mixture}\n  index: kept")), now=NOW)
    first, second = read.data.mixture
    assert (first.annotation, first.root) == (f"{tmp_path}/a.jsonl", f"{tmp_path.parent}/images")
    assert (second.annotation, second.root) == ("s3://bucket/b.jsonl", ""), "an absent root stays absent"
    assert read.data.index == f"{tmp_path}/kept"


@pytest.mark.parametrize("name", ["job.json", "job.yaml"])
def test_the_operators_document_is_a_job_file_too(tmp_path: Path, name: str) -> None:
    document = job(tmp_path / "world", tmp_path / "store")
    assert read_job(write(tmp_path, document.to_bytes().decode(), name), now=NOW) == document


def test_what_is_read_can_be_handed_to_workers(tmp_path: Path) -> None:
    read = read_job(write(tmp_path, SHORT), now=NOW)
    assert JobConfig.from_bytes(read.to_bytes()) == read


def test_values_can_be_changed_from_the_command_line(tmp_path: Path) -> None:
    changes = ["optimization.steps=7", "layout.tensor=2", "model=tiny-8b-like", "trainable=[projector]"]
    read = read_job(write(tmp_path, SHORT), changes, now=NOW)
    assert (read.optimization.steps, read.layout.tensor, read.model.name) == (7, 2, "tiny-8b-like")
    assert read.trainable == ("projector",)
    assert read.optimization.global_batch == 4


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("steps: 20", "steps: [20", "job.yaml, line 7, column 10: is no YAML"),
        ("steps: 20", "\tsteps: 20", "job.yaml, line 6, column 3: is no YAML"),
        ("steps: 20", "steps: many", "job.yaml, line 6: optimization.steps: Input should be a valid integer"),
        ("steps: 20", "step: 20", "job.yaml, line 6: optimization.step: no such field; did you mean steps?"),
        ("steps: 20", "step: 20", "job.yaml, line 5: optimization.steps: Field required"),
        ("steps: 20", "global_batch: 2", "line 8: optimization.global_batch was given in line 6 already"),
        ("tiny-1b-like", "tiny", "job.yaml, line 1: model 'tiny' is not in the catalogue; known models: InternVL"),
        ("every_steps: 10", "every_steps: 0", "line 9: checkpoint.every_steps: Input should be greater than"),
        ("model: tiny-1b-like\n", "", "job.yaml: model: Field required"),
        (SHORT, "- a list", "job.yaml: holds a list; a job is a mapping"),
        (SHORT, "# nothing", "job.yaml: holds nothing"),
        (SHORT, "model: \x07", "job.yaml: is no YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, before: str, after: str, words: str) -> None:
    assert before in SHORT
    assert words in refusal(write(tmp_path, SHORT.replace(before, after), "job.yaml"))


def test_a_syntax_error_in_json_has_its_line_too(tmp_path: Path) -> None:
    path = write(tmp_path, '{\n "model": tiny\n}', "job.json")
    assert refusal(path) == f"{path}, line 2, column 11: is no JSON: Expecting value"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimization.steps", "--set optimization.steps: is not of the form"),
        ("optimization..steps=1", "is not of the form"),
        ("optimization.steps=[", "is no YAML value"),
        ("optimization.steps=0", "--set optimization.steps=0: optimization.steps: Input should be greater than"),
        ("optimization.stride=1", "--set optimization.stride=1: optimization.stride: no such field; there are steps, "),
        ("optimizaton.steps=1", "--set optimizaton.steps=1: optimizaton: no such field; did you mean optimization?"),
        ("partition.sequence_parallel=1", "partition.sequence_parallel: no such field; did you mean sequence?"),
        ("init={vision: {url: x}}", "init.vision.url: no such field; did you mean uri?"),
        ("model.vision.layers=1", "--set model.vision.layers=1: model is 'tiny-1b-like', which has no fields"),
        ("layout.data=3", "global_batch is 4 packs, which 3 data-parallel replicas cannot share"),
    ],
)
def test_a_wrong_change_is_told_from_a_wrong_file(tmp_path: Path, change: str, words: str) -> None:
    assert words in refusal(write(tmp_path, SHORT), change)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(path)


def test_an_item_that_is_refused_is_the_only_complaint_about_its_list(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, SHORT), "trainable=[lang]")
    assert said.splitlines() == [
        "--set trainable=[lang]: trainable.0: Input should be 'vision', 'projector' or 'language', not 'lang'"
    ]
    assert "at least 1 item" in refusal(write(tmp_path, SHORT), "trainable=[]")
