"""Images in a process of their own: what it loads, and how much memory it takes at most."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

pytestmark = pytest.mark.integration

MEBIBYTE = 2**20

LOAD = """
import json, sys
from pathlib import Path

import numpy
from internvl_trainer.data.pixels.decode import DecodeError, decode
from internvl_trainer.data.pixels.resize import resize
from internvl_trainer.data.tiling import tile_image

def peak():  # getrusage would tell that of the parent, where it is higher
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

resize(numpy.zeros((2, 2, 3), numpy.uint8), 1, 1)  # loads torch
data = Path(sys.argv[1]).read_bytes()
before = peak()
try:
    shape, error = tile_image(decode(data).pixels_HWC).shape, None
except DecodeError as refusal:
    shape, error = None, str(refusal)
print(json.dumps({"shape": shape, "error": error, "bytes": peak() - before}))
"""


def _python(program: str, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True, timeout=120
    )
    return run.stdout


def _load(file: Path) -> Any:
    return json.loads(_python(LOAD, str(file)))


def test_counting_tiles_does_not_load_torch() -> None:
    assert _python("import sys, internvl_trainer.data.images; print('torch' in sys.modules)") == "False\n"


def test_a_hundred_megapixels_of_jpeg_are_read_at_half_their_size(tmp_path: Path) -> None:
    row = np.arange(12_000, dtype=np.uint8)[None, :, None]
    (tmp_path / "large.jpg").write_bytes(simplejpeg.encode_jpeg(np.broadcast_to(row, (9_000, 12_000, 3)).copy()))

    loaded = _load(tmp_path / "large.jpg")

    assert loaded["shape"] == [13, 448, 448, 3]
    assert loaded["bytes"] < 200 * MEBIBYTE  # as decoded, it would be 309


def test_a_hundred_megapixels_of_png_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("RGB", (12_000, 9_000)).save(tmp_path / "large.png", compress_level=1)

    loaded = _load(tmp_path / "large.png")

    assert loaded["error"] == (
        "too large: 12000 x 9000 px, 108 megapixels; at most 64 are read of a PNG, scale it down"
    )  # fmt: skip
    assert loaded["bytes"] < 20 * MEBIBYTE


def test_the_largest_png_takes_what_is_stated(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8_000, 8_000)).save(buffer, "PNG", compress_level=1)
    (tmp_path / "largest.png").write_bytes(buffer.getvalue())

    loaded = _load(tmp_path / "largest.png")

    assert loaded["shape"] == [10, 448, 448, 3]
    assert loaded["bytes"] < 500 * MEBIBYTE
