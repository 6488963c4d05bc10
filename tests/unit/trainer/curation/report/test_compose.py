"""A report from indexes: what training will see, and how it packs."""

import numpy as np
import pytest
from rich.console import Console

from internvl_trainer.curation.report.compose import compose, of_epoch
from internvl_trainer.curation.report.count import count
from internvl_trainer.curation.report.document import MixtureReport
from internvl_trainer.curation.report.tables import tables
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.order import EpochOrder, RepeatMode
from internvl_trainer.data.packing import PackLimits
from internvl_trainer.data.records import Kind
from tests.unit.trainer.curation.mixtures import data, mixture, rows

pytestmark = pytest.mark.unit


@pytest.fixture
def report() -> MixtureReport:
    return compose(mixture(), data(), model="InternVL2_5-8B", global_batch=4, replicas=2)


def test_bad_samples_are_told_by_their_reason_and_train_nothing(report: MixtureReport) -> None:
    news = report.sources[1]
    assert (news.rows, news.bad, news.raw.samples) == (10, {"image unreadable": 1}, 9)


def test_an_epoch_holds_what_training_draws(report: MixtureReport) -> None:
    assert [source.epoch.samples for source in report.sources] == [50, 9, 5, 30]
    assert report.total.epoch.tokens == 50 * 500 + 9 * 900 + 5 * 2000 + 30 * 100
    assert report.kinds["video"].epoch_share.tokens == pytest.approx(10000 / 46100)


def test_packs_are_those_of_training(report: MixtureReport) -> None:
    fill = report.fill
    assert fill.exact
    assert (fill.samples, fill.tokens, fill.tiles) == (94, 46100, 50 * 2 + 9 * 3 + 5 * 8)
    assert fill.packs_bound == 12 <= fill.packs <= 14
    assert fill.token_fill == pytest.approx(46100 / fill.packs / 4096)
    assert fill.steps == fill.packs / 4


@pytest.mark.parametrize(("mode", "repeat"), [("exact", 0.4), ("exact", 2.5), ("reference", 0.4), ("reference", 2)])
def test_an_epoch_is_the_average_of_the_epochs_that_training_draws(mode: RepeatMode, repeat: float) -> None:
    of_source = rows([(Kind.TEXT, number + 1, 0, int(number % 7 == 3)) for number in range(50)])
    limits = PackLimits(100, 10)
    found = of_epoch(of_source, count(of_source, limits), repeat, mode, limits)
    epochs, tokens, samples = 50, 0, 0
    for epoch in range(epochs):
        order = EpochOrder([50], [repeat], mode, seed=1, epoch=epoch)
        drawn = of_source[order.at(np.arange(order.draws)).row]
        good = drawn[drawn["reason"] == 0]
        tokens, samples = tokens + int(good["tokens"].sum()), samples + len(good)
    assert found.tokens.sum() == pytest.approx(tokens / epochs)
    assert found.samples.sum() == pytest.approx(samples / epochs)


def test_repeats_that_draw_nothing_are_refused() -> None:
    (charts, *_) = mixture()
    never = charts._replace(source=charts.source.model_copy(update={"repeat_time": 0.01}))
    with pytest.raises(MetaError, match="an epoch"):
        compose([never], data(), model="InternVL2_5-8B", global_batch=None, replicas=1)


def test_everything_is_said_on_a_terminal(report: MixtureReport) -> None:
    console = Console(width=200, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(*tables(report), sep="\n")
    said = captured.get()
    for words in (
        "meta.json for InternVL2_5-8B: by type",
        "single image", "54.23 %", "45.92 %",  # of an epoch's tokens, and in the InternVL-2.5 report
        "image unreadable",
        "Tokens of a sample: mean 490.4, median 500, 95 % up to 2,000, largest 2,000",
        "Tiles of a sample", "tokens filled, of 4,096", "steps of 4 packs (2 per replica)",
    ):  # fmt: skip
        assert words in said, words


def test_the_document_can_be_read_again(report: MixtureReport) -> None:
    assert MixtureReport.model_validate_json(report.model_dump_json()) == report
