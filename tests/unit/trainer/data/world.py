"""What the tests of the data path are made of: golden values, formula pictures, records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.data import Pack, PackStream

GOLDEN = Path(__file__).parents[3] / "golden"


def golden(name: str) -> Any:
    """The content of one golden file."""
    return json.loads((GOLDEN / name).read_text())


def formula_image(width: int, height: int) -> Image.Image:
    """The synthetic picture that the golden pixel files were made from."""
    y, x = np.mgrid[:height, :width]
    red, green = (3 * x + 5 * y) % 256, (7 * x + 2 * y + 50) % 256
    blue = ((x // 16 + y // 16) % 2) * 200 + (x + y) % 50
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def text_record(number: int, answer: str = "a1") -> dict[str, Any]:
    """A record without images."""
    turns = [{"from": "human", "value": "q1"}, {"from": "gpt", "value": answer}]
    return {"id": number, "conversations": turns}


def image_record(number: int | str, image: str | list[str], width: Any = None, height: Any = None) -> dict[str, Any]:
    """A record with images, each placed by a placeholder."""
    count = 1 if isinstance(image, str) else len(image)
    turns = [{"from": "human", "value": "<image>\n" * count + "q2"}, {"from": "gpt", "value": "ok"}]
    sizes = {} if width is None else {"width": width, "height": height}
    return {"id": number, "image": image, "conversations": turns} | sizes


def packs_of(stream: PackStream, epoch: int = 0, *, with_tiles: bool = True) -> list[Pack]:
    """All packs of one epoch, in the global order."""
    packs = []
    for keys, after in stream.batches(DataPosition(epoch=epoch), 1):
        packs += [stream.load(key, with_tiles=with_tiles) for key in keys]
        if after.epoch > epoch:
            return packs
    raise AssertionError("the stream of packs has no end")


def first_pack(stream: PackStream, *, with_tiles: bool = True) -> Pack:
    """The first pack of the first epoch."""
    (key,), _ = next(stream.batches(DataPosition(), 1))
    return stream.load(key, with_tiles=with_tiles)
