"""The report as a figure."""

from pathlib import Path

import pytest
from PIL import Image

from internvl_trainer.curation.report.compose import compose
from internvl_trainer.curation.report.document import MixtureReport
from internvl_trainer.curation.report.picture import COLOURS, draw
from tests.unit.trainer.curation.mixtures import Indexed, data, mixture

pytestmark = pytest.mark.unit


def report(indexes: list[Indexed]) -> MixtureReport:
    return compose(indexes, data(), model="InternVL2_5-8B", global_batch=None, replicas=1)


def test_types_are_told_by_their_colours(tmp_path: Path) -> None:
    draw(report(mixture()), tmp_path / "a" / "mixture.png")
    picture = Image.open(tmp_path / "a" / "mixture.png").convert("RGB")
    assert picture.width >= 1200, "fit for print"
    shown = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in COLOURS.values()} <= shown


def test_an_svg_holds_its_text_and_is_the_same_each_time(tmp_path: Path) -> None:
    made = report(mixture())
    for name in ("one.svg", "two.svg"):
        draw(made, tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two
    assert b"InternVL-2.5 report" in one
    assert b"n_max 24, r 2.5" in one


def test_the_title_says_that_not_all_of_many_data_sets_are_shown(tmp_path: Path) -> None:
    some = report(mixture())
    made = some.model_copy(update={"sources": some.sources * 5})
    draw(made, tmp_path / "many.svg")
    assert f"the largest 16 of {len(made.sources)}" in (tmp_path / "many.svg").read_text()


def test_one_data_set_of_one_kind_can_be_drawn(tmp_path: Path) -> None:
    words = mixture()[3]
    draw(report([words]), tmp_path / "words.png")
    assert Image.open(tmp_path / "words.png").size[0] >= 1200
