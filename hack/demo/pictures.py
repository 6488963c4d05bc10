"""Emoji as pictures: which ones there are, which ones training never sees, and how they are drawn."""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PACKAGES = ("fonts-noto-color-emoji", "unicode-data")
FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
EMOJI_TEST = "usr/share/unicode/emoji/emoji-test.txt"

CELL = 112
"""Side of one picture in pixels: one tile of the tiny models."""

HELD_OUT_SHARE = 0.1

_STRIKE = 109
"""The only size that the font's bitmaps have."""

_ROW = re.compile(r"(?P<codes>[0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (?P<name>.+)")


@dataclass(frozen=True)
class Picture:
    """One emoji: its character or sequence of characters, its Unicode name, and the subgroup Unicode files it under."""

    text: str
    name: str
    kind: str

    @property
    def key(self) -> str:
        """Its code points, fit for a file name: `1f469-200d-1f373`."""
        return "-".join(f"{ord(character):x}" for character in self.text)

    @property
    def caption(self) -> str:
        """What a model learns to say: `animal mammal: hamster`."""
        return f"{self.kind}: {self.name}"


def read_pictures(emoji_test: str) -> list[Picture]:
    """All emoji of Unicode's emoji-test.txt, without the variants that differ in skin tone only."""
    pictures, kind = [], ""
    for line in emoji_test.splitlines():
        if line.startswith("# subgroup: "):
            kind = line.removeprefix("# subgroup: ").replace("-", " ").replace("&", "and")
        elif (row := _ROW.match(line)) and "skin tone" not in row["name"]:
            text = "".join(chr(int(code, 16)) for code in row["codes"].split())
            pictures.append(Picture(text, row["name"], kind))
    return pictures


def is_held_out(picture: Picture, seed: int) -> bool:
    """Whether a picture is kept for the evaluation: a seeded choice by its code points alone, about one in ten."""
    digest = hashlib.sha256(f"{seed}:{picture.key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


class Painter:
    """Draws pictures with the colour emoji font. Needs Pillow with raqm, which shapes flags and joined sequences."""

    def __init__(self, font: Path) -> None:
        self._font = ImageFont.truetype(str(font), _STRIKE, layout_engine=ImageFont.Layout.RAQM)
        self._glyphs: dict[str, Image.Image] = {}

    def cell(self, picture: Picture, variant: int, seed: int) -> Image.Image:
        """One rendering, RGB, CELL x CELL: size, place and background are drawn from (seed, picture, variant)."""
        draw = random.Random(f"{seed}/{picture.key}/{variant}")
        glyph = self._glyph(picture)
        scale = draw.uniform(0.85, 1.0) * CELL / max(glyph.size)
        glyph = glyph.resize((round(glyph.width * scale), round(glyph.height * scale)), Image.Resampling.BILINEAR)
        background = tuple(draw.randint(225, 255) for _ in range(3))
        cell = Image.new("RGB", (CELL, CELL), background)
        cell.paste(glyph, (draw.randint(0, CELL - glyph.width), draw.randint(0, CELL - glyph.height)), glyph)
        return cell

    def sheet(self, cells: Sequence[Image.Image], columns: int) -> Image.Image:
        """Cells on a grid, in reading order."""
        rows = -(-len(cells) // columns)
        sheet = Image.new("RGB", (columns * CELL, rows * CELL), "white")
        for place, cell in enumerate(cells):
            sheet.paste(cell, (place % columns * CELL, place // columns * CELL))
        return sheet

    def _glyph(self, picture: Picture) -> Image.Image:
        if picture.key not in self._glyphs:
            canvas = Image.new("RGBA", (160, 160))
            ImageDraw.Draw(canvas).text((8, 8), picture.text, font=self._font, embedded_color=True)
            self._glyphs[picture.key] = canvas.crop(canvas.getbbox())
        return self._glyphs[picture.key]
