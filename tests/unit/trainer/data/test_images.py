"""Images of a sample: their tiles are those that were counted, and a bad one is a typed reason that names it."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_trainer.data import tiling
from internvl_trainer.data.errors import ImageSizeMismatchError, ImageTooLargeError, ImageUnreadableError
from internvl_trainer.data.images import Tiling, load_tiles, tile_counts
from internvl_trainer.data.media import MediaReader
from internvl_trainer.data.pixels import decode, jpeg
from internvl_trainer.data.records import Record, Turn
from internvl_trainer.data.sources import Source
from internvl_trainer.model.pixels import IMAGENET_MEAN, IMAGENET_STD
from internvl_trainer.storage import StoreDeniedError, StoreUnavailableError, open_store
from tests.unit.trainer.data.world import formula_image, golden

pytestmark = pytest.mark.unit

RULES = Tiling(tile_size=28, max_tiles=6, thumbnail=True)
MEDIA = MediaReader(open_store())
KEY = (1, 2)


def _record(images: Sequence[str], sizes: tuple[tuple[int, int], ...] | None = None) -> Record:
    return Record("photos:7 (photos.jsonl line 3)", (Turn("human", "<image>" * len(images)),), tuple(images), sizes)


def _source(root: Path, *, augment: bool = False) -> Source:
    return Source(name="photos", number=0, root=str(root), annotation="photos.jsonl", data_augment=augment)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a picture of seven tiles and one of a single tile."""
    formula_image(90, 60).save(tmp_path / "wide.png")
    formula_image(28, 28).save(tmp_path / "small.jpg")
    return tmp_path


def test_tiles_of_all_images_follow_each_other(photos: Path) -> None:
    record, source = _record(["wide.png", "small.jpg"]), _source(photos)

    counts = tile_counts(record, source, RULES, MEDIA)
    tiles_NSSC = load_tiles(record, source, counts, RULES, MEDIA, KEY)

    one, other = (Image.open(photos / name) for name in record.images)
    assert counts == [3, 1]
    assert np.array_equal(tiles_NSSC[:3], tiling.tile_image(one, max_tiles=3, tile_size=28))
    assert np.array_equal(tiles_NSSC[3:], tiling.tile_image(other, max_tiles=3, tile_size=28))


def test_tiles_can_be_written_where_a_pack_wants_them(photos: Path) -> None:
    record, source = _record(["wide.png", "small.jpg"]), _source(photos, augment=True)
    pack_NSSC = np.zeros((6, 28, 28, 3), dtype=np.uint8)

    load_tiles(record, source, [3, 1], RULES, MEDIA, KEY, out=pack_NSSC[1:5])

    assert np.array_equal(pack_NSSC[1:5], load_tiles(record, source, [3, 1], RULES, MEDIA, KEY))
    assert not pack_NSSC[[0, 5]].any()


def test_augmentation_is_a_jpeg_pass_per_tile_at_seeded_qualities(photos: Path) -> None:
    record = _record(["wide.png"])
    plain, first, again, other = (
        load_tiles(record, _source(photos, augment=augment), [7], RULES, MEDIA, key)
        for augment, key in ((False, KEY), (True, KEY), (True, KEY), (True, (1, 3)))
    )

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for tile_SSC, augmented_SSC in zip(plain, first, strict=True):
        candidates = np.repeat(tile_SSC[None], 26, axis=0)
        jpeg.round_trip(candidates, range(75, 101))
        assert any(np.array_equal(augmented_SSC, candidate) for candidate in candidates)


def test_pixels_of_the_reference_data_set_are_met(tmp_path: Path) -> None:
    golden_set = golden("dataset_samples.json")
    for name, (width, height) in golden_set["image_sizes"].items():
        formula_image(width, height).save(tmp_path / name)
    for item in golden_set["items"]:
        images = golden_set["records"][item["record"]].get("image") or []
        record = _record([images] if isinstance(images, str) else images)
        rules = Tiling(tile_size=448, max_tiles=item["max_dynamic_patch"], thumbnail=True)

        counts = tile_counts(record, _source(tmp_path), rules, MEDIA)
        tiles_NSSC = load_tiles(record, _source(tmp_path), counts, rules, MEDIA, KEY)

        normal_NC = (tiles_NSSC.mean(axis=(1, 2)) / 255 - IMAGENET_MEAN) / IMAGENET_STD
        if record.images:  # a text has no tile here, and a white one in the reference
            assert normal_NC.mean(axis=1) == pytest.approx(item["pixel_mean_per_tile"], abs=1e-2)
        else:
            assert len(tiles_NSSC) == 0


def _jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    formula_image(width, height).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "image {} does not exist", id="missing"),
        pytest.param(b"", "image {} cannot be decoded: empty (0 bytes)", id="empty"),
        pytest.param(
            _jpeg(90, 60)[:1500], "image {} cannot be decoded: damaged JPEG: image file is truncated", id="cut"
        ),
        pytest.param(b"<html>", "image {} cannot be decoded: no image format is known that begins with", id="page"),
    ],
)
def test_an_image_that_cannot_be_used_names_the_sample_and_the_file(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "bad.jpg").write_bytes(content)

    with pytest.raises(ImageUnreadableError) as caught:
        load_tiles(_record(["bad.jpg"]), _source(tmp_path), [7], RULES, MEDIA, KEY)

    assert str(caught.value).startswith(
        "sample photos:7 (photos.jsonl line 3): " + reason.format(tmp_path / "bad.jpg")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        pytest.param("folder", "image .*/folder does not exist", id="a folder"),
        pytest.param("small.jpg/inside", "image .*/inside does not exist", id="below a file"),
        pytest.param("gs://bucket/a.png", "image gs://bucket/a.png has no usable address; give s3://", id="scheme"),
        pytest.param("nul\0byte.png", "has no usable address", id="no name"),
        pytest.param(
            "data:image/png;base64," + 4096 * "A", r"AAA\.\.\. \(\d+ characters\) does not exist", id="inline"
        ),
    ],
)
def test_an_image_that_is_no_file_is_a_bad_sample(photos: Path, image: str, reason: str) -> None:
    (photos / "folder").mkdir()
    for read in (
        lambda record, source: tile_counts(record, source, RULES, MEDIA),
        lambda record, source: load_tiles(record, source, [1], RULES, MEDIA, KEY),
    ):
        with pytest.raises(ImageUnreadableError, match=reason) as caught:
            read(_record([image]), _source(photos))
        assert len(str(caught.value)) < 500


class Failing:
    """A store that fails as it is told."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, uri: str) -> bytes:
        raise self._error

    def read_range(self, uri: str, offset: int, length: int) -> bytes:
        raise self._error


@pytest.mark.parametrize("error", [StoreUnavailableError("no answer"), StoreDeniedError("no permission")])
def test_a_store_that_does_not_answer_is_no_bad_sample(error: Exception) -> None:
    media = MediaReader(Failing(error))  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        tile_counts(_record(["a.png"]), _source(Path("s3://bucket")), RULES, media)
    with pytest.raises(type(error)):
        load_tiles(_record(["a.png"]), _source(Path("s3://bucket")), [1], RULES, media, KEY)


def test_an_image_of_another_size_than_its_record_says_is_refused(photos: Path) -> None:
    record, source = _record(["wide.png"], ((28, 28),)), _source(photos)
    counts = tile_counts(record, source, RULES, MEDIA)

    with pytest.raises(
        ImageSizeMismatchError, match=r"is 90 x 60 px and gives 7 tiles where .* give 1; correct the rec"
    ):
        load_tiles(record, source, counts, RULES, MEDIA, KEY)


def test_a_header_longer_than_what_is_read_at_first_is_read_whole(tmp_path: Path) -> None:
    data = _jpeg(90, 60)
    comments = b"".join(b"\xff\xfe" + (60_000).to_bytes(2) + bytes(59_998) for _ in range(2))
    (tmp_path / "long.jpg").write_bytes(data[:2] + comments + data[2:])

    assert tile_counts(_record(["long.jpg"]), _source(tmp_path), RULES, MEDIA) == [7]


def test_an_image_with_too_many_pixels_has_a_reason_of_its_own(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "LARGEST", 90 * 60 - 1)
    message = r"image .*/wide.png is too large: 90 x 60 px"

    with pytest.raises(ImageTooLargeError, match=message):
        tile_counts(_record(["wide.png"]), _source(photos), RULES, MEDIA)
    with pytest.raises(ImageTooLargeError, match=message):
        load_tiles(_record(["wide.png"]), _source(photos), [7], RULES, MEDIA, KEY)


def test_a_very_large_jpeg_gets_the_grid_of_its_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.jpg").write_bytes(_jpeg(40, 31))
    record, source = _record(["large.jpg"]), _source(tmp_path)
    whole_NSSC = load_tiles(record, source, [7], RULES, MEDIA, KEY)

    monkeypatch.setattr(decode, "LARGEST", 40 * 31 - 1)
    half_NSSC = load_tiles(record, source, tile_counts(record, source, RULES, MEDIA), RULES, MEDIA, KEY)

    assert tiling.tile_count(20, 16, max_tiles=6, tile_size=28) == 1
    assert half_NSSC.shape == whole_NSSC.shape
    assert half_NSSC.mean() == pytest.approx(whole_NSSC.mean(), abs=6)
