"""A picture that costs a JPEG decoder what a photograph costs: about two bits per pixel at quality 90."""

import io

import numpy as np
from PIL import Image

from internvl_trainer.data.pixels.resize import resize


def photo(width: int, height: int, *, quality: int = 90, seed: int = 0) -> bytes:
    """JPEG, 4:2:0: octaves of noise whose amplitude falls with frequency, as in nature, and some grain."""
    random = np.random.default_rng(seed)
    picture_HWC = np.full((height, width, 3), 128.0, dtype=np.float32)
    amplitude, cells = 90.0, 4
    while cells < width:
        rows = max(2, cells * height // width)
        octave_HWC = random.integers(0, 256, (rows, cells, 3), dtype=np.uint8)
        picture_HWC += (resize(octave_HWC, width, height).astype(np.float32) / 255 - 0.5) * amplitude
        amplitude, cells = amplitude * 0.62, cells * 2
    picture_HWC += random.normal(0, 4.5, (height, width, 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
