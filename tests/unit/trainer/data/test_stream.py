"""PackStream: from JSONL and pictures on disk to packs, the same ones for everybody."""

import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.data import DataError, PackStream
from internvl_trainer.data.errors import (
    ImageSizeMismatchError,
    ImageUnreadableError,
    MetaError,
    SampleChangedError,
    TokenizerError,
    TooManyBadSamplesError,
)
from tests.unit.trainer.data.world import first_pack, golden, image_record, packs_of, text_record

pytestmark = pytest.mark.unit

MakeStream = Callable[..., PackStream]
SaveImage = Callable[[str, int, int], None]


@pytest.fixture
def open_mixed(make_stream: MakeStream, save_image: SaveImage) -> Callable[[], PackStream]:
    """Thirty samples: text, single images of one to seven tiles, pairs of images."""
    save_image("square.png", 112, 112)
    save_image("wide.png", 336, 224)
    records = [text_record(number) for number in range(10)]
    records += [image_record(number, "square.png", 112, 112) for number in range(10, 20)]
    records += [image_record(number, "wide.png") for number in range(20, 27)]
    records += [image_record(number, ["square.png", "wide.png"], [112, 336], [112, 224]) for number in range(27, 30)]
    return lambda: make_stream({"mix": records}, pack_tokens=600, pack_tiles=14, max_tiles=6)


@pytest.fixture
def mixed(open_mixed: Callable[[], PackStream]) -> PackStream:
    """A stream over the thirty samples."""
    return open_mixed()


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_every_sample_comes_once_an_epoch_within_the_limits(mixed: PackStream, epoch: int) -> None:
    packs = packs_of(mixed, epoch, with_tiles=False)

    assert sorted(name for pack in packs for name in pack.sample_ids) == sorted(
        f"mix:{n} (mix.jsonl line {n + 1})" for n in range(30)
    )
    assert all(len(pack.tokens_S) <= 600 and pack.tile_count <= 14 for pack in packs)


def test_epochs_have_different_orders(mixed: PackStream) -> None:
    first, second = (
        [name for pack in packs_of(mixed, epoch, with_tiles=False) for name in pack.sample_ids] for epoch in (0, 1)
    )

    assert first != second


def test_a_pack_is_consistent_in_itself(mixed: PackStream) -> None:
    for pack in packs_of(mixed, 0):
        lengths = np.diff(pack.cu_seqlens)
        assert len(lengths) == len(pack.sample_ids)
        assert pack.cu_seqlens[-1] == len(pack.tokens_S) == len(pack.labels_S) == len(pack.weights_S)
        assert [pack.tokens_S.dtype, pack.labels_S.dtype, pack.weights_S.dtype] == [np.int64, np.int64, np.float32]
        assert pack.cu_seqlens.dtype == np.int32
        assert pack.tiles_NHWC is not None
        assert pack.tiles_NHWC.shape == (pack.tile_count, 112, 112, 3)
        assert (pack.tokens_S == mixed.tokenizer.img_context_id).sum() == 16 * pack.tile_count
        assert ((pack.weights_S > 0) == (pack.labels_S >= 0)).all()
        # Each learned position names the next token of the same segment, and the last one of a segment names none.
        learned = np.flatnonzero(pack.labels_S >= 0)
        assert (pack.labels_S[learned] == pack.tokens_S[learned + 1]).all()
        assert (pack.labels_S[pack.cu_seqlens[1:] - 1] == -100).all()


def test_tiles_stand_in_the_order_of_their_placeholders(make_stream: MakeStream, save_image: SaveImage) -> None:
    save_image("wide.png", 336, 224)
    stream = make_stream({"one": [image_record(1, "wide.png")]}, max_tiles=6)

    pack = first_pack(stream)

    assert pack.tile_count == 7
    assert pack.tiles_NHWC is not None
    # The first tile is the picture's own top left corner: 336 x 224 is a 3 x 2 grid of 112 px, so nothing is resized.
    x, y = 5, 9
    assert pack.tiles_NHWC[0, y, x, :2].tolist() == [(3 * x + 5 * y) % 256, (7 * x + 2 * y + 50) % 256]


def test_a_pack_of_text_has_no_tiles(make_stream: MakeStream) -> None:
    pack = first_pack(make_stream({"text": [text_record(1)]}))

    assert pack.tile_count == 0
    assert pack.tiles_NHWC is not None
    assert pack.tiles_NHWC.shape == (0, 112, 112, 3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(st.permutations(range(12)))
def test_a_pack_is_the_same_in_whatever_order_packs_are_asked_for(mixed: PackStream, order: list[int]) -> None:
    keys = [key for (key,), _ in islice(mixed.batches(DataPosition(), 1), 12)]
    expected = [mixed.load(key, with_tiles=False) for key in keys]

    for number in order:
        pack = mixed.load(keys[number], with_tiles=False)
        assert (pack.index, pack.sample_ids) == (number, expected[number].sample_ids)
        assert np.array_equal(pack.tokens_S, expected[number].tokens_S)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.integers(0, 15), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_killed_at_any_step_and_resumed_with_any_number_of_ranks_the_rest_is_the_same(
    mixed: PackStream, killed_after: int, before: int, after: int
) -> None:
    whole = list(islice(mixed.batches(DataPosition(), 4), 16))
    position = whole[killed_after - 1][1] if killed_after else DataPosition()
    rest = islice(mixed.batches(DataPosition.from_bytes(position.to_bytes()), 4), 16 - killed_after)

    for (keys, then), (expected, expected_then) in zip(rest, whole[killed_after:], strict=True):
        assert then == expected_then
        for ranks in (before, after):
            shared_out = [keys[rank::ranks] for rank in range(ranks)]
            numbers = [shared_out[place % ranks][place // ranks].number for place in range(4)]
            assert numbers == [key.number for key in expected]
        for key, other in zip(keys, expected, strict=True):
            assert all(np.array_equal(mine, its) for mine, its in zip(key, other, strict=True))


def test_augmented_tiles_are_the_same_each_time_but_differ_between_epochs(
    make_stream: MakeStream, save_image: SaveImage
) -> None:
    save_image("square.png", 112, 112)
    stream = make_stream({"one": [image_record(1, "square.png")]}, entry={"data_augment": True})

    tiles = [packs_of(stream, epoch)[0].tiles_NHWC for epoch in range(6)]

    assert np.array_equal(tiles[0], first_pack(stream).tiles_NHWC)
    assert len({tile.tobytes() for tile in tiles if tile is not None}) > 1


def test_repeat_time_draws_a_data_set_more_often(make_stream: MakeStream) -> None:
    stream = make_stream({"text": [text_record(n) for n in range(8)]}, entry={"repeat_time": 2.5})

    names = [name for pack in packs_of(stream, 0, with_tiles=False) for name in pack.sample_ids]

    assert len(names) == 20
    assert {names.count(f"text:{n} (text.jsonl line {n + 1})") for n in range(8)} == {2, 3}


def test_an_epoch_without_samples_is_refused(make_stream: MakeStream) -> None:
    with pytest.raises(MetaError, match="an epoch has no sample"):
        make_stream({"text": [text_record(1)]}, entry={"repeat_time": 0.5})


@pytest.mark.parametrize("mode", ["token", "sample", "square"])
def test_weights_equal_the_reference_collation(mode: str) -> None:
    from internvl_trainer.data.loss_weights import token_weights

    for case in golden("packed_collate.json")["cases"]:
        if case["loss_reduction"] != mode:
            continue
        labels = np.array(case["pack"]["labels"])
        for segment in set(case["pack"]["data_index"]):
            inside = np.array(case["pack"]["data_index"]) == segment
            learned = inside & (labels != -100)
            weights = np.array(case["loss_weight"][0])[: len(labels)][learned]
            assert weights == pytest.approx(token_weights(int(learned.sum()), mode), abs=1e-7)  # type: ignore[arg-type]


def test_unusable_samples_are_left_out_and_counted(make_stream: MakeStream, caplog: pytest.LogCaptureFixture) -> None:
    records = [text_record(number) for number in range(199)]
    stream = make_stream({"text": [*records, {**text_record(199), "id": "film", "video": ["v.mp4", "w.mp4"]}]})

    assert "data set text: 1 of 200 samples is left out: 1 video not supported" in caplog.text
    assert sum(len(pack.sample_ids) for pack in packs_of(stream, 0, with_tiles=False)) == 199


def test_more_than_one_percent_of_unusable_samples_stop_the_stage(make_stream: MakeStream) -> None:
    records = [text_record(number) for number in range(97)]
    bad = [{**text_record(97), "video": ["v.mp4"]}, image_record(98, "missing.png"), {"id": 99, "conversations": []}]

    with pytest.raises(TooManyBadSamplesError, match=r"3 of 100 samples are unusable, limit 1% \(1 video") as caught:
        make_stream({"text": records + bad})

    assert caught.value.exit_code == ExitCode.INVALID_CONFIG
    assert "image" in str(caught.value)


def test_a_missing_annotation_is_named(make_stream: MakeStream) -> None:
    with pytest.raises(MetaError, match=r"annotation .*/gone\.jsonl does not exist"):
        make_stream({"text": [text_record(1)]}, entry={"annotation": "gone.jsonl"})


def test_a_data_set_without_samples_is_refused(make_stream: MakeStream) -> None:
    with pytest.raises(DataError, match="holds no sample"):
        make_stream({"text": []})


def test_a_sample_with_more_tiles_than_a_pack_holds_is_unusable(make_stream: MakeStream, save_image: SaveImage) -> None:
    save_image("wide.png", 336, 224)

    with pytest.raises(TooManyBadSamplesError, match="7 tiles, a pack holds 6; lower max_dynamic_patch"):
        make_stream({"one": [image_record(1, "wide.png")]}, pack_tiles=6)


def test_samples_that_turn_out_bad_are_masked_out_of_their_pack_and_nothing_else_moves(
    make_stream: MakeStream, save_image: SaveImage
) -> None:
    save_image("square.png", 112, 112)
    save_image("wide.png", 336, 224)
    records = [image_record(0, "square.png", 112, 112), text_record(1), image_record(2, "square.png", 112, 112)]
    records += [image_record(3, "wide.png", 112, 112), image_record(4, "gone.png", 112, 112)]
    stream = make_stream({"mix": records})

    whole, left = first_pack(stream, with_tiles=False), first_pack(stream)

    assert {fault.sample.split()[0]: type(fault) for fault in left.skipped} == {
        "mix:3": ImageSizeMismatchError,
        "mix:4": ImageUnreadableError,
    }
    assert sorted(name.split()[0] for name in left.sample_ids) == ["mix:0", "mix:1", "mix:2"]
    # Ranks that do not decode hear which samples to drop, and come to the same pack.
    told = whole.without(left.masked)
    assert (told.sample_ids, told.segment_tiles, told.masked) == (left.sample_ids, left.segment_tiles, left.masked)
    for name in ("tokens_S", "labels_S", "weights_S", "cu_seqlens"):
        assert np.array_equal(getattr(told, name), getattr(left, name))
    assert whole.skipped == ()


def test_an_image_that_was_replaced_since_it_was_indexed_cannot_overfill_its_pack(
    make_stream: MakeStream, save_image: SaveImage
) -> None:
    save_image("a.png", 112, 112)
    stream = make_stream({"mix": [text_record(0), image_record(1, "a.png")]}, pack_tokens=200, pack_tiles=14)
    save_image("a.png", 336, 224)

    for with_tiles in (True, False):
        left = first_pack(stream, with_tiles=with_tiles)

        assert [type(fault) for fault in left.skipped] == [SampleChangedError]
        assert "1 tile and 69 tokens when it was indexed, and 7 tiles and 165 tokens now" in str(left.skipped[0])
        assert [name.split()[0] for name in left.sample_ids] == ["mix:0"]


def test_a_pack_whose_samples_all_turn_out_bad_is_left_with_nothing_to_learn(make_stream: MakeStream) -> None:
    stream = make_stream({"one": [image_record(1, "gone.png", 112, 112)]})

    whole, left = first_pack(stream, with_tiles=False), first_pack(stream)

    assert (left.sample_ids, left.masked, left.tile_count) == ((), (0,), 0)
    assert left.tokens_S.tolist() == whole.without([0]).tokens_S.tolist()
    assert left.weights_S.sum() == 0
    assert left.tiles_NHWC is not None
    assert left.tiles_NHWC.shape == (0, 112, 112, 3)
    assert [type(fault) for fault in left.skipped] == [ImageUnreadableError]


def test_what_was_found_bad_travels_between_processes(make_stream: MakeStream) -> None:
    stream = make_stream({"one": [image_record(1, "gone.png", 112, 112)]})
    loader = pickle.loads(pickle.dumps(stream.loader))
    (key,), _ = next(stream.batches(DataPosition(), 1))

    (fault,) = pickle.loads(pickle.dumps(loader.load(key).skipped))

    assert isinstance(fault, ImageUnreadableError)
    assert fault.sample.startswith("one:1")
    assert str(fault) == str(stream.load(key).skipped[0])


def test_an_annotation_that_is_changed_while_it_is_read_stops_the_stage(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    stream = make_stream({"text": [text_record(1)]})
    (tmp_path / "text.jsonl").write_text("{}\n")

    with pytest.raises(DataError, match="was changed while it was in use"):
        first_pack(stream)


def test_a_tokenizer_larger_than_the_embedding_is_refused(make_stream: MakeStream, geometry: ModelGeometry) -> None:
    language = geometry.language.model_copy(update={"vocab_size": 2048})
    model = geometry.model_copy(update={"language": language})

    with pytest.raises(TokenizerError, match="ids up to 151673, but model tiny-1b-like has 2048 embedding rows"):
        make_stream({"text": [text_record(1)]}, model=model)
