"""Image files to RGB pixels, exactly those that Pillow gives: it is what the released models were trained with.

JPEG goes through libjpeg-turbo directly, with the transform and the upsampling that Pillow uses. What that strict
decoder refuses, and every other format, goes through Pillow itself. Colours are converted as Pillow's
`convert("RGB")` does: alpha is dropped, 16-bit grey is clipped at 255, of an animation the first frame counts. The
EXIF orientation is not applied.

Shapes: H and W the image's height and width, C = 3 colours.
"""

import io
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

LARGEST = 64_000_000
"""Most pixels of an image that is decoded whole: 192 MB of RGB, and about 450 MB while Pillow decodes it."""

LARGEST_JPEG = 4 * LARGEST
"""Most pixels of a JPEG: above LARGEST it is decoded at half its size each way."""

_STRIP = 64
"""Rows that are converted at a time, so that a conversion needs no second image."""

# They name no file, and repeat what is an error here: too many pixels, or damage.
warnings.filterwarnings("ignore", module=r"PIL\.")

_JPEG_BEGINS = b"\xff\xd8"

# What Pillow's plugins raise for damaged files, apart from OSError: each reads its format with plain Python.
_DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, RuntimeError),
    *(LookupError, TypeError, AttributeError, struct.error, zlib.error),
)


class DecodeError(ValueError):
    """The bytes hold no image that can be decoded. The message says why, as the end of a sentence."""


class TooManyPixelsError(DecodeError):
    """The image has more pixels than are decoded, so that one file cannot take a node's memory."""


class Decoded(NamedTuple):
    """An image with the size that its file states."""

    pixels_HWC: np.ndarray
    """uint8[H, W, 3], contiguous; of half the stated size, rounded up, for a JPEG of more than LARGEST pixels."""
    width: int
    height: int


class _JpegHeader(NamedTuple):
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def decode(data: bytes) -> Decoded:
    """The image in the bytes of a file.

    Raises:
        DecodeError: no known format, damaged or truncated.
        TooManyPixelsError: more than LARGEST pixels, LARGEST_JPEG for a JPEG.
    """
    header = _jpeg_header(data)
    if header is not None and header.pixels > LARGEST:
        return Decoded(_half_jpeg(data, header), header.width, header.height)
    if header is not None:
        try:
            pixels_HWC = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
        except ValueError:
            # Damaged. Pillow bears with more than the strict decoder, and has the last word.
            pass
        else:
            return Decoded(pixels_HWC, header.width, header.height)
    with _opened(data) as image:
        try:
            return Decoded(rgb(image), *image.size)
        except _DAMAGED as error:
            raise DecodeError(f"damaged {image.format}: {error}") from error


def stated_size(data: bytes) -> tuple[int, int]:
    """Width and height that a file states, in pixels; its first bytes are enough for most formats.

    Raises:
        DecodeError: no known format, or its header goes on after these bytes.
        TooManyPixelsError: see `decode`.
    """
    header = _jpeg_header(data)
    if header is not None:
        _check_pixels("JPEG", header.width, header.height, LARGEST_JPEG)
        return header.width, header.height
    with _opened(data) as image:
        return image.size


def rgb(image: Image.Image) -> np.ndarray:
    """An image of any mode as uint8[H, W, 3], contiguous; converted in strips.

    Raises:
        OSError and others of Pillow: the image is not loaded yet, and its file is damaged.
    """
    image.load()  # some formats know their size only now
    pixels_HWC = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        pixels_HWC[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)).convert("RGB"))
    return pixels_HWC


def _jpeg_header(data: bytes) -> _JpegHeader | None:
    """None for what Pillow has to decode: other formats, strange headers, and inks, which both convert differently."""
    if data[:2] != _JPEG_BEGINS:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return None if colours in ("CMYK", "YCCK") else _JpegHeader(width, height)


def _half_jpeg(data: bytes, header: _JpegHeader) -> np.ndarray:
    """A very large JPEG at half its size, which its transform yields without the whole image."""
    _check_pixels("JPEG", header.width, header.height, LARGEST_JPEG)
    half = {"min_height": (header.height + 1) // 2, "min_width": (header.width + 1) // 2}
    try:
        pixels_HWC: np.ndarray = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False, **half)
    except ValueError as error:
        raise DecodeError(f"damaged JPEG: {error}") from error
    return pixels_HWC


def _opened(data: bytes) -> Image.Image:
    """Opened by Pillow, not loaded."""
    if not data:
        raise DecodeError("empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise DecodeError(f"no image format is known that begins with {data[:16]!r}") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"too large: {error}; at most {LARGEST} pixels are read, scale it down") from error
    except _DAMAGED as error:
        raise DecodeError(f"damaged: {error}") from error
    _check_pixels(str(image.format), image.width, image.height, LARGEST)
    return image


def _check_pixels(kind: str, width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise TooManyPixelsError(
            f"too large: {width} x {height} px, {width * height / 1e6:.0f} megapixels; at most {limit / 1e6:.0f} are "
            f"read of a {kind}, scale it down"
        )
