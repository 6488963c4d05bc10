"""The example that anybody can run on a laptop is a valid job."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from internvl_trainer.cli import train
from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import JobConfig

pytestmark = pytest.mark.unit

EXAMPLE = Path(__file__).parents[4] / "trainer/examples/tiny.json"


def test_it_is_a_job_for_four_processes_on_a_model_of_the_catalogue() -> None:
    example = JobConfig.from_bytes(EXAMPLE.read_bytes())
    assert example.model == MODELS["tiny-8b-like"]
    assert example.layout.world == 4


def test_the_command_refuses_what_makes_no_job() -> None:
    result = CliRunner().invoke(train, ["--config", str(EXAMPLE), "--processes", "0"])
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert "cannot launch" in result.output
