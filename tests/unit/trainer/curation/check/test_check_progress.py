"""How far a check is, where there is no terminal: a line now and then."""

import io

import pytest
from rich.console import Console

from internvl_trainer.curation.check.progress import LINE_SECONDS, Seen, shown

pytestmark = pytest.mark.unit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_seldom_and_say_samples_tiles_and_time_left() -> None:
    clock, log = Clock(), io.StringIO()
    with shown(Console(file=log), clock=clock) as watch:
        for second in range(1, 26):
            clock.now = 100.0 + second
            watch(Seen(bytes_done=second * 10, bytes=1000, samples=second * 200, bad=3, tiles=second * 1500))
    assert log.getvalue().splitlines() == [
        "10.0%  2,000 samples  3 bad  1,500 tiles/s  90 s left",
        "20.0%  4,000 samples  3 bad  1,500 tiles/s  80 s left",
    ]
    assert LINE_SECONDS == 10


def test_without_pixels_there_is_no_rate_of_tiles() -> None:
    clock, log = Clock(), io.StringIO()
    with shown(Console(file=log), clock=clock) as watch:
        clock.now += 60
        watch(Seen(bytes_done=50, bytes=100, samples=1, bad=0, tiles=0))
    assert log.getvalue() == "50.0%  1 samples  0 bad  60 s left\n"
