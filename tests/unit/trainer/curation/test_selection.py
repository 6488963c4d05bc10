"""Which data sets a subcommand is about, and what makes packs steps."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.curation.inputs import Inputs
from internvl_trainer.curation.selection import Steps, chosen, steps_of
from internvl_trainer.data.errors import MetaError
from internvl_trainer.launch.job_file import read_job
from internvl_trainer.storage import open_store
from tests.unit.trainer.curation.mixtures import data, source

pytestmark = pytest.mark.unit

SOURCES = [source("charts", 0), source("news", 1), source("clips", 2)]
EXAMPLE = Path(__file__).parents[4] / "trainer/examples/mixture.yaml"


def test_without_names_all_are_meant() -> None:
    assert chosen(SOURCES, ()) == tuple(SOURCES)


def test_names_choose_and_the_order_stays() -> None:
    assert [each.name for each in chosen(SOURCES, ("clips", "charts"))] == ["charts", "clips"]


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(MetaError, match="--sources names words; there are charts, news, clips"):
        chosen(SOURCES, ("charts", "words"))


def test_a_job_says_what_a_step_is_and_an_option_says_it_first(tmp_path: Path) -> None:
    job = read_job(EXAMPLE, ["layout.data=2", "optimization.global_batch=6"], now=datetime.now(UTC))
    inputs = Inputs(job.data, job.model, open_store(), tmp_path, job)
    assert steps_of(inputs, None) == Steps(global_batch=6, replicas=2)
    assert steps_of(inputs, 8) == Steps(global_batch=8, replicas=2)
    alone = Inputs(data(), MODELS["tiny-8b-like"], open_store(), tmp_path)
    assert steps_of(alone, None) == Steps(global_batch=None, replicas=1)
