"""Image files become the pixels that Pillow gives, or a reason why not."""

import io
import zlib
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl_trainer.data.pixels import decode as decoding
from internvl_trainer.data.pixels.decode import DecodeError, TooManyPixelsError, decode, stated_size
from tests.unit.trainer.data.world import formula_image

pytestmark = pytest.mark.unit

PICTURE = formula_image(83, 59)
SOF = b"\xff\xc0\x00\x11\x08"
"""Where a baseline JPEG states its height and width."""


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _half(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = _file(image, kind, **options)
    return data[: len(data) // 2]


def _by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _jpeg_of_stated_size(width: int, height: int) -> bytes:
    before, after = _file(PICTURE, "JPEG").split(SOF, 1)
    return before + SOF + height.to_bytes(2) + width.to_bytes(2) + after[4:]


def _png_of_stated_size(width: int, height: int) -> bytes:
    data = _file(Image.new("RGB", (1, 1)), "PNG")
    header = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4) + data[33:]


@pytest.mark.parametrize(
    ("subsampling", "progressive", "quality"),
    product(["4:4:4", "4:2:2", "4:2:0"], [False, True], [30, 75, 95, 100]),
)
def test_a_jpeg_has_pillows_pixels(subsampling: str, progressive: bool, quality: int) -> None:
    data = _file(PICTURE, "JPEG", subsampling=subsampling, progressive=progressive, quality=quality)

    assert np.array_equal(decode(data).pixels_HWC, _by_pillow(data))


@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_so_has_a_jpeg_of_another_writer(subsampling: str) -> None:
    data = simplejpeg.encode_jpeg(np.asarray(PICTURE), colorsubsampling=subsampling)

    assert np.array_equal(decode(data).pixels_HWC, _by_pillow(data))


DEEP = Image.fromarray(np.arange(60_000, dtype=np.uint16).reshape(200, 300))
EXIF = Image.Exif()
EXIF[0x112] = 6  # to be turned by a quarter


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_file(PICTURE.convert("L"), "JPEG"), id="grey JPEG"),
        pytest.param(_file(PICTURE, "JPEG", exif=EXIF), id="JPEG with an orientation, which is left alone"),
        pytest.param(_file(PICTURE, "JPEG", keep_rgb=True), id="RGB JPEG"),
        pytest.param(_file(PICTURE.convert("CMYK"), "JPEG"), id="CMYK JPEG"),
        pytest.param(_file(PICTURE, "JPEG") + b"something behind the end", id="JPEG with a tail"),
        pytest.param(_file(PICTURE, "PNG"), id="PNG"),
        pytest.param(_file(PICTURE.convert("L").convert("I;16"), "PNG"), id="16-bit PNG of small values"),
        pytest.param(_file(DEEP, "PNG"), id="16-bit PNG"),
        pytest.param(_file(PICTURE.convert("1"), "PNG"), id="PNG of bits"),
        pytest.param(_file(PICTURE.convert("P"), "PNG"), id="PNG with a palette"),
        pytest.param(_file(PICTURE.convert("P"), "PNG", transparency=3), id="PNG with a transparent colour"),
        pytest.param(_file(PICTURE.convert("LA"), "PNG"), id="grey PNG with alpha"),
        pytest.param(_file(Image.merge("RGBA", [*PICTURE.split(), PICTURE.split()[0]]), "PNG"), id="PNG with alpha"),
        pytest.param(
            _file(PICTURE.convert("P"), "GIF", save_all=True, append_images=[Image.new("P", PICTURE.size)]),
            id="animated GIF: the first frame",
        ),
        pytest.param(_file(PICTURE, "WEBP", lossless=True), id="WebP"),
        pytest.param(_file(PICTURE, "TIFF", compression="tiff_lzw"), id="TIFF"),
        pytest.param(_file(PICTURE, "BMP"), id="BMP"),
    ],
)  # fmt: skip
def test_any_file_has_pillows_pixels(data: bytes) -> None:
    decoded = decode(data)

    assert np.array_equal(decoded.pixels_HWC, _by_pillow(data))
    assert decoded.pixels_HWC.shape == (decoded.height, decoded.width, 3)
    assert decoded.pixels_HWC.flags.c_contiguous
    assert decoded.pixels_HWC.flags.writeable
    assert stated_size(data) == (decoded.width, decoded.height)


def test_a_jpeg_that_only_the_strict_decoder_refuses_is_pillows() -> None:
    begin, end = (data := _file(PICTURE, "JPEG")).find(b"\xff\xda"), len(data) - 2
    data = data[: begin + 300] + b"\xff\xd0" + data[begin + 300 : end] + data[end:]  # a marker out of place
    with pytest.raises(ValueError):
        simplejpeg.decode_jpeg(data)

    assert np.array_equal(decode(data).pixels_HWC, _by_pillow(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", r"empty \(0 bytes\)", id="empty"),
        pytest.param(b"<!DOCTYPE html><html>", "no image format is known that begins with b'<!DOCTYPE html", id="page"),
        pytest.param(_half(PICTURE, "JPEG"), "damaged JPEG: image file is truncated", id="truncated JPEG"),
        pytest.param(_file(PICTURE, "JPEG")[:-2], "damaged JPEG: image file is truncated", id="JPEG without its end"),
        pytest.param(_half(PICTURE, "JPEG", progressive=True), "image file is truncated", id="progressive JPEG"),
        pytest.param(_half(PICTURE, "PNG"), "damaged PNG: image file is truncated", id="truncated PNG"),
        pytest.param(_half(PICTURE, "GIF"), "damaged GIF: image file is truncated", id="truncated GIF"),
        pytest.param(_half(PICTURE, "WEBP"), "damaged: could not create decoder object", id="truncated WebP"),
    ],
)
def test_what_cannot_be_decoded_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(
            _png_of_stated_size(10_000, 10_000),
            "too large: 10000 x 10000 px, 100 megapixels; at most 64 are read of a PNG, scale it down",
            id="PNG",
        ),
        pytest.param(_png_of_stated_size(30_000, 30_000), r"too large: .*900000000.* at most 64000000", id="PNG bomb"),
        pytest.param(
            _jpeg_of_stated_size(20_000, 20_000),
            "too large: 20000 x 20000 px, 400 megapixels; at most 256 are read of a JPEG, scale it down",
            id="JPEG",
        ),
    ],
)
def test_an_image_that_would_take_too_much_memory_is_refused_by_its_header(data: bytes, reason: str) -> None:
    for read in (decode, stated_size):
        with pytest.raises(TooManyPixelsError, match=reason):
            read(data)


def test_a_very_large_jpeg_is_decoded_at_half_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _file(PICTURE, "JPEG", quality=95)
    assert decode(data).pixels_HWC.shape == (59, 83, 3)

    monkeypatch.setattr(decoding, "LARGEST", 83 * 59 - 1)
    half_HWC, width, height = decode(data)

    assert (width, height) == (83, 59)
    assert half_HWC.shape == (30, 42, 3)
    means = [pixels_HWC.mean(axis=(0, 1)) for pixels_HWC in (half_HWC, np.asarray(PICTURE))]
    assert means[0] == pytest.approx(means[1], abs=6)


def test_a_very_large_jpeg_that_is_truncated_says_so() -> None:
    with pytest.raises(DecodeError, match=r"damaged JPEG: .*premature end of data"):
        decode(_jpeg_of_stated_size(9_000, 8_000))


def test_the_first_bytes_of_a_file_tell_its_size() -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        data = _file(formula_image(640, 480), kind)

        assert stated_size(data[:4096]) == (640, 480), kind

    with pytest.raises(DecodeError):
        stated_size(_file(PICTURE, "JPEG", exif=b"Exif\0\0" + bytes(5000))[:4096])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO"]), st.data())
def test_damage_of_any_kind_is_a_reason_or_an_image(kind: str, data: st.DataObject) -> None:
    file = bytearray(_file(PICTURE, kind))
    for place in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=4)):
        file[place] = data.draw(st.integers(0, 255))
    file = file[: data.draw(st.integers(0, len(file)))]

    with suppress(DecodeError):
        assert decode(bytes(file)).pixels_HWC.dtype == np.uint8
