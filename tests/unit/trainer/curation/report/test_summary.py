"""From counts to shares: what there is, and what an epoch draws of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.curation.report import summary
from internvl_trainer.curation.report.count import count
from internvl_trainer.curation.report.summary import Counted, cut
from internvl_trainer.data.packing import PackLimits
from internvl_trainer.data.records import Kind
from tests.unit.trainer.curation.mixtures import rows, source

pytestmark = pytest.mark.unit

LIMITS = PackLimits(tokens=100, tiles=10)


def counted(name: str, samples: list[tuple[Kind, int, int, int]], repeat: float = 1.0) -> Counted:
    raw = count(rows(samples), LIMITS)
    return Counted(source(name, repeat_time=repeat), 12, raw, raw.scaled(repeat), {})


MIXTURE = [
    counted("pictures", [(Kind.SINGLE_IMAGE, 30, 3, 0)] * 4 + [(Kind.SINGLE_IMAGE, 0, 0, 5)], repeat=0.5),
    counted("clips", [(Kind.VIDEO, 60, 8, 0)] * 2, repeat=2.0),
    counted("words", [(Kind.TEXT, 20, 0, 0)] * 3),
]


def test_an_epoch_is_what_repeating_makes_of_what_is_there() -> None:
    parts = cut(MIXTURE)
    assert (parts.total.raw.samples, parts.total.epoch.samples) == (9, 9)
    assert (parts.total.raw.tokens, parts.total.epoch.tokens) == (300, 360)
    assert (parts.total.raw.tiles, parts.total.epoch.tiles) == (28, 38)
    pictures, clips, words = parts.sources
    assert [part.raw_share.tokens for part in parts.sources] == pytest.approx([0.4, 0.4, 0.2])
    assert [part.epoch_share.tokens for part in parts.sources] == pytest.approx([60 / 360, 240 / 360, 60 / 360])
    assert (pictures.rows, pictures.kinds["single image"], pictures.mean_tokens) == (5, 4, 30.0)
    assert clips.epoch_share.tiles == pytest.approx(32 / 38)
    assert words.mean_tiles == 0


def test_types_are_counted_through_all_data_sets() -> None:
    parts = cut([*MIXTURE, counted("more words", [(Kind.TEXT, 20, 0, 0)])])
    assert list(parts.kinds) == ["text", "single image", "multi image", "video"]
    assert parts.kinds["text"].raw.samples == 4
    assert parts.kinds["multi image"].epoch_share.tokens == 0


@given(
    mixture=st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from(Kind), st.integers(1, 100), st.integers(0, 10), st.just(0)), max_size=5),
            st.floats(0.1, 4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_shares_of_parts_make_the_whole(mixture: list[tuple[list[tuple[Kind, int, int, int]], float]]) -> None:
    parts = cut([counted(str(number), samples, repeat) for number, (samples, repeat) in enumerate(mixture)])
    for cutting in (parts.sources, list(parts.kinds.values())):
        whole = 1.0 if parts.total.raw.samples else 0.0
        assert sum(part.raw_share.samples for part in cutting) == pytest.approx(whole)
        assert sum(part.epoch_share.tokens for part in cutting) == pytest.approx(whole)
        assert sum(part.epoch.tiles for part in cutting) == pytest.approx(parts.total.epoch.tiles)


def test_a_histogram_holds_every_sample_once() -> None:
    epoch = summary.total([each.epoch for each in MIXTURE])
    lengths, tiles = summary.lengths(epoch), summary.tiles(epoch)
    assert sum(lengths.totals) == sum(tiles.totals) == 9
    assert (lengths.edges[0], lengths.edges[-1] > 100) == (1, True)
    assert lengths.counts["video"][(60 - 1) // 4] == 4
    assert (lengths.mean, lengths.median, lengths.p95, lengths.largest) == (40.0, 30, 60, 60)
    assert tiles.edges == list(range(12))
    assert [tiles.totals[place] for place in (0, 3, 8)] == [3, 2, 4]


def test_a_histogram_of_nothing_is_empty() -> None:
    nothing = counted("nothing", []).epoch
    assert summary.lengths(nothing).largest == 0
    assert sum(summary.tiles(nothing).totals) == 0
