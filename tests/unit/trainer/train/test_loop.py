"""The loop: resume or start, step, save on time, stop when asked, publish at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.checkpoint.saving import Saved
from internvl_trainer.checkpoint.state import TrainState
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.manifest import ManifestRef, SaveTimes
from internvl_trainer.data.errors import TooManyBadSamplesError
from internvl_trainer.engine.protocol import StepResult
from internvl_trainer.train.batches import Batch
from internvl_trainer.train.interrupt import InterruptedTrainingError
from internvl_trainer.train.loop import train
from tests.integration.trainer.world import job

pytestmark = pytest.mark.unit


def position(step: int, **fields: int) -> DataPosition:
    """Where the data stands after so many steps."""
    return DataPosition(packs=2 * step, taken=2 * step, samples=20 * step, **fields)


class Diary:
    """Engine, checkpoints, feed and observer in one, which writes down what happens to it."""

    def __init__(
        self, resumed: TrainState | None = None, *, data: int = 10, skips: dict[int, int] | None = None
    ) -> None:
        self.resumed = resumed
        self.data = data
        self.skips = skips or {}
        self.rates: list[float] = []
        self.saved_at: list[int] = []
        self.told: list[int] = []
        self.heard: list[tuple[int, int | None]] = []
        """Which checkpoint the observer heard of, after which step."""
        self.seen: list[int] = []
        self.started_fresh = False
        self.published: list[str] = []
        self.limits: list[float | None] = []

    def train_step(
        self, packs: list[int], learning_rate: float, step: int, *, loss_limit: float | None = None
    ) -> StepResult:
        assert packs == [step]
        self.rates.append(learning_rate)
        self.limits.append(loss_limit)
        return StepResult(loss=10.0 - step, grad_norm=1.0, tokens=100, tiles=3, skipped=self.skips.get(step, 0))

    def resume(self, engine: "Diary") -> TrainState | None:
        return self.resumed

    def initialise(self, engine: "Diary") -> None:
        self.started_fresh = True

    def begin_save(self, engine: "Diary", state: TrainState) -> None:
        self.saved_at.append(state.step)

    def news(self) -> list[Saved]:
        """An upload takes as long as a step: it is told of when the next step is done."""
        fresh = self.saved_at[len(self.told) :]
        self.told += fresh
        return [Saved(step, _ref(step), SaveTimes(waited=0, copied=0, uploaded=1)) for step in fresh]

    finish_saves = news

    def publish(self, ref: ManifestRef) -> list[str]:
        self.published.append(ref.uri)
        return [ref.uri]

    @contextmanager
    def feed(self, first: DataPosition) -> Iterator[Iterator[Batch]]:
        """Two packs and twenty samples a step."""
        steps = range(first.packs // 2, self.data)
        yield iter([Batch([step], position(step + 1)) for step in steps])  # type: ignore[list-item]

    def stepped(self, state: TrainState) -> None:
        self.seen.append(state.step)

    def saved(self, saved: Saved) -> None:
        self.heard.append((saved.step, self.seen[-1] if self.seen else None))


def _ref(step: int) -> ManifestRef:
    return ManifestRef(uri=f"s3://bucket/step-{step}", sha256="0" * 64)


def run(diary: Diary, tmp_path: Path, *, stop_after: int | None = None, **changes: Any) -> TrainState:
    settings = {"steps": 10, "warmup_steps": 4, "peak_lr": 1.0, "global_batch": 2} | changes
    config = job(tmp_path, tmp_path, optimization=settings, checkpoint={"every_steps": 4})
    return train(config, diary, diary, diary.feed, diary, lambda: stop_after == (diary.seen[-1] if diary.seen else 0))  # type: ignore[arg-type]


def test_a_new_stage_starts_from_its_sources_and_saves_on_time_and_at_the_end(tmp_path: Path) -> None:
    diary = Diary()
    state = run(diary, tmp_path)
    assert diary.started_fresh
    assert diary.seen == list(range(1, 11))
    assert diary.saved_at == [4, 8, 10]
    assert diary.heard == [(4, 5), (8, 9), (10, 10)], "training goes on beside the upload"
    assert diary.published == ["s3://bucket/step-10"]
    assert (state.step, state.tokens, state.data) == (10, 1000, position(10))
    assert [metrics.loss for metrics in state.metrics] == [10.0 - step for step in range(10)]


def test_the_learning_rate_is_that_of_the_step(tmp_path: Path) -> None:
    diary = Diary()
    run(diary, tmp_path)
    assert diary.rates[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert diary.rates[-1] < diary.rates[4]


def test_a_resumed_stage_goes_on_where_it_stood(tmp_path: Path) -> None:
    whole, first = Diary(), Diary()
    run(whole, tmp_path)
    with pytest.raises(InterruptedTrainingError):
        run(first, tmp_path, stop_after=4)
    second = Diary(resumed=TrainState(step=4, tokens=400, data=position(4), metrics=()))
    state = run(second, tmp_path)
    assert not second.started_fresh
    assert first.rates + second.rates == whole.rates
    assert state.data.packs == 20


def test_when_asked_to_stop_it_saves_the_last_whole_step_and_says_so(tmp_path: Path) -> None:
    diary = Diary()
    with pytest.raises(InterruptedTrainingError, match=r"after step 3; committed s3://bucket/step-3"):
        run(diary, tmp_path, stop_after=3)
    assert diary.saved_at == [3]
    assert diary.published == []


def test_when_asked_to_stop_before_the_first_step_it_ends_at_once_and_saves_nothing(tmp_path: Path) -> None:
    diary = Diary()
    with pytest.raises(InterruptedTrainingError, match="committed nothing: no step was trained"):
        run(diary, tmp_path, stop_after=0)
    assert (diary.seen, diary.saved_at) == ([], [])


def test_being_asked_to_stop_at_the_last_step_is_just_the_end(tmp_path: Path) -> None:
    diary = Diary()
    run(diary, tmp_path, stop_after=10)
    assert diary.saved_at == [4, 8, 10]
    assert diary.published == ["s3://bucket/step-10"]


def test_a_stage_that_is_resumed_at_its_end_commits_and_publishes_again(tmp_path: Path) -> None:
    diary = Diary(resumed=TrainState(step=10, tokens=1000, data=position(10), metrics=()))
    run(diary, tmp_path)
    assert diary.seen == []
    assert diary.saved_at == [10]
    assert diary.published == ["s3://bucket/step-10"]


@pytest.mark.parametrize(("limit", "last"), [(1, 1), (500, 5), (501, 6), (1000, 10), (5000, 10)])
def test_a_stage_ends_with_the_step_in_which_its_tokens_reach_the_limit_or_with_its_steps(
    limit: int, last: int, tmp_path: Path
) -> None:
    diary = Diary()
    state = run(diary, tmp_path, stop_after_tokens=limit)
    assert (state.step, diary.seen[-1]) == (last, last)
    assert diary.saved_at[-1] == last
    assert diary.published == [f"s3://bucket/step-{last}"]


def test_the_learning_rate_does_not_hurry_for_a_stage_that_its_tokens_end(tmp_path: Path) -> None:
    whole, short = Diary(), Diary()
    run(whole, tmp_path)
    run(short, tmp_path, stop_after_tokens=600)
    assert short.rates == whole.rates[:6]


def test_a_stage_that_its_tokens_have_ended_takes_no_step_when_resumed(tmp_path: Path) -> None:
    diary = Diary(resumed=TrainState(step=5, tokens=500, data=position(5), metrics=()))
    run(diary, tmp_path, stop_after_tokens=500)
    assert diary.rates == []
    assert diary.saved_at == [5]
    assert diary.published == ["s3://bucket/step-5"]


def test_a_step_may_not_exceed_the_mean_of_the_last_twenty_by_more_than_the_limit(tmp_path: Path) -> None:
    diary = Diary(data=30)
    state = run(diary, tmp_path, steps=30, spike_limit=3.0)
    losses = [metrics.loss for metrics in state.metrics]
    assert diary.limits[:20] == [None] * 20
    assert diary.limits[20:] == [pytest.approx(3 * sum(losses[n - 20 : n]) / 20) for n in range(20, 30)]


def test_without_a_limit_no_loss_is_a_spike(tmp_path: Path) -> None:
    diary = Diary(data=30)
    run(diary, tmp_path, steps=30)
    assert set(diary.limits) == {None}


def test_samples_that_are_left_out_are_counted_in_the_state_and_survive_a_restart(tmp_path: Path) -> None:
    first = Diary(skips={1: 3, 3: 1})
    with pytest.raises(InterruptedTrainingError):
        run(first, tmp_path, stop_after=4)
    resumed = TrainState(step=4, tokens=400, data=position(4, skipped=4), metrics=())
    state = run(Diary(resumed=resumed, skips={4: 2}), tmp_path)
    assert state.data == position(10, skipped=6)
    assert [metrics.skipped for metrics in state.metrics] == [2, 0, 0, 0, 0, 0]


def test_more_left_out_samples_than_the_budget_end_the_stage_and_leave_its_last_checkpoint(tmp_path: Path) -> None:
    diary = Diary(skips={5: 10, 6: 1})
    with pytest.raises(TooManyBadSamplesError, match=r"11 of 140 samples could not be read .* limit 10 ") as caught:
        run(diary, tmp_path)
    assert caught.value.exit_code == ExitCode.INVALID_CONFIG
    assert (diary.seen[-1], diary.saved_at) == (6, [4])
