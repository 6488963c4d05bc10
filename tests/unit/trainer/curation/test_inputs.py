"""How a subcommand of `internvl data` is told its data: a job file, or a meta JSON with a tokenizer and a model."""

import errno
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.cli import SUBCOMMANDS, data
from internvl_trainer.curation.inputs import Inputs, takes_data
from internvl_trainer.data.errors import MetaError
from tests.unit.trainer.data.world import GOLDEN

pytestmark = pytest.mark.unit

JOB = """\
model: tiny-1b-like
data: {meta: meta.json, tokenizer: tokenizer, pack_tiles: 7}
optimization: {steps: 20, peak_lr: 1e-3, global_batch: 4}
checkpoint: {every_steps: 10}
storage: {uri: "file://checkpoints", endpoint_url: "http://127.0.0.1:1"}
"""


class Told:
    """A command that remembers what it was told."""

    inputs: Inputs
    loud: bool

    def run(self, *arguments: str) -> Result:
        @click.command()
        @click.option("--loud", is_flag=True)
        @takes_data
        def command(inputs: Inputs, loud: bool) -> None:
            self.inputs, self.loud = inputs, loud

        return CliRunner().invoke(command, arguments)


def test_a_meta_json_with_its_tokenizer_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = Told()
    assert told.run("meta.json", "--tokenizer", "s3://bucket/qwen", "--loud").exit_code == 0
    assert told.loud
    assert told.inputs.data.meta == f"{tmp_path}/meta.json", "a path means the same in every process"
    assert told.inputs.data.tokenizer == "s3://bucket/qwen"
    assert told.inputs.model == MODELS["InternVL2_5-1B"]


def test_a_job_file_names_everything(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    told = Told()
    result = told.run("--config", str(tmp_path / "job.yaml"), "--set", "pack_tokens=8192", "--cache", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert (told.inputs.data.pack_tokens, told.inputs.data.pack_tiles) == (8192, 7)
    assert told.inputs.data.meta == f"{tmp_path}/meta.json"
    assert told.inputs.model == MODELS["tiny-1b-like"]
    assert told.inputs.cache == tmp_path


def test_fields_of_the_data_section_can_be_set(tmp_path: Path) -> None:
    told = Told()
    assert told.run("m.json", "--tokenizer", "t", "--set", "max_tiles=6", "--set", "thumbnail=false").exit_code == 0
    assert (told.inputs.data.max_tiles, told.inputs.data.thumbnail) == (6, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name the data: META with --tokenizer, or --config with a job file"),
        (("m.json",), "name the data: META with --tokenizer"),
        (("m.json", "--config", "JOB"), "give no others beside it"),
        (
            ("m.json", "--tokenizer", "t", "--set", "max_tiles=0"),
            "--set max_tiles=0: max_tiles: Input should be greater than or equal to 1, not 0",
        ),
        (("m.json", "--tokenizer", "t", "--set", "max_tiles=a"), "unable to parse string as an integer, not 'a'"),
        (("m.json", "--tokenizer", "t", "--set", "max_tile=1"), "no such field; did you mean max_tiles?"),
        (("m.json", "--tokenizer", "t", "--set", "min_frames=99"), "min_frames is 99, more than max_frames, 32"),
        (("m.json", "--tokenizer", "t", "--set", "tiles"), "is not of the form field.field=value"),
        (("--config", "JOB", "--set", "max_tiles=0"), "--set data.max_tiles=0: data.max_tiles: Input should be"),
        (("m.json", "--tokenizer", "t", "--model", "GPT"), "model 'GPT' is not in the catalogue"),
        (("m.json", "--tokenizer", "t", "--endpoint-url", "http://key:secret@host"), "carries credentials"),
    ],
)
def test_what_is_wrong_ends_with_two_and_a_reason(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    result = Told().run(*(str(job) if argument == "JOB" else argument for argument in arguments))
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert words in result.output
    assert "secret" not in result.output.replace("--endpoint-url", "")


def test_an_error_of_the_data_ends_with_its_own_exit_code() -> None:
    @click.command()
    @takes_data
    def command(inputs: Inputs) -> None:
        raise MetaError("meta m.json does not exist")

    result = CliRunner().invoke(command, ["m.json", "--tokenizer", "t"])
    assert (result.exit_code, result.output) == (MetaError.exit_code, "Error: meta m.json does not exist\n")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/x/rows"), ExitCode.INVALID_CONFIG, "/x/rows: read-only file"),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.STORE_UNAVAILABLE, "no space left on device; free"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted; indexes that were finished by then are kept"),
    ],
)
def test_a_machine_that_fails_a_command_is_told_of_with_the_places_it_writes_to(
    error: BaseException, code: ExitCode, words: str
) -> None:
    @click.command()
    @takes_data
    def command(inputs: Inputs) -> None:
        raise error

    result = CliRunner().invoke(command, ["m.json", "--tokenizer", "t", "--cache", "/some/cache"])
    assert result.exit_code == code
    assert words in result.output
    assert code == ExitCode.INTERRUPTED or "this command writes to --cache (/some/cache)" in result.output


def test_the_list_of_subcommands_loads_none_of_them() -> None:
    result = CliRunner().invoke(data, ["--help"])
    assert result.exit_code == 0
    assert all(subcommand.summary in result.output for subcommand in SUBCOMMANDS.values())
    assert CliRunner().invoke(data, ["dance"]).exit_code == 2


@pytest.mark.parametrize("command", ["index", "check", "report"])
def test_a_tokenizer_of_another_model_is_refused_before_anything_is_read(tmp_path: Path, command: str) -> None:
    (tmp_path / "meta.json").write_text('{"a": {"annotation": "a.jsonl"}}')
    (tmp_path / "a.jsonl").write_text("")
    places = ["--tokenizer", str(GOLDEN / "qwen2_5_subset"), "--model", "tiny-8b-like", "--cache", str(tmp_path / "c")]
    result = CliRunner().invoke(data, [command, str(tmp_path / "meta.json"), *places])
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert "has ids up to 151673, but model tiny-8b-like has 2048 embedding rows" in result.stderr
    assert result.stdout == ""
