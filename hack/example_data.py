"""Make the data set of trainer/examples/tiny.yaml: coloured shapes, questions about them, and a tokenizer.

    python -m hack.example_data

It is committed, since an example that has to be prepared is not run; a test compares it with what this makes.
"""

import json
from pathlib import Path
from typing import Any

import click
from PIL import Image, ImageDraw

from hack.demo import tokenizer

FOLDER = Path(__file__).parents[1] / "trainer/examples/data"
VOCAB_SIZE = 512
SIDE = 112
"""Pixels: one tile of the tiny models."""

COLOURS = {
    "red": (214, 40, 40), "green": (46, 160, 67), "blue": (48, 88, 220), "yellow": (242, 204, 40),
    "black": (20, 20, 20), "purple": (140, 50, 170),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross", "ring")
QUESTION = "<image>\nWhat is in the picture?"
QUESTION_TWO = "<image>\nWhat is in the picture, from left to right?"

Record = dict[str, Any]


def draw(shape: str, colour: str) -> Image.Image:
    """One shape on white."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen, ink = ImageDraw.Draw(image), COLOURS[colour]
    near, middle, far = SIDE // 7, SIDE // 2, SIDE - SIDE // 7
    if shape == "circle":
        pen.ellipse((near, near, far, far), fill=ink)
    elif shape == "ring":
        pen.ellipse((near, near, far, far), outline=ink, width=SIDE // 8)
    elif shape == "square":
        pen.rectangle((near, near, far, far), fill=ink)
    elif shape == "triangle":
        pen.polygon(((middle, near), (far, far), (near, far)), fill=ink)
    else:
        pen.line((near, near, far, far), fill=ink, width=SIDE // 8)
        pen.line((near, far, far, near), fill=ink, width=SIDE // 8)
    return image


def single(shape: str, colour: str) -> tuple[Record, Image.Image]:
    """One shape and what it is."""
    return _record(f"{colour}-{shape}", QUESTION, f"A {colour} {shape}.", draw(shape, colour))


def pair(left: tuple[str, str], right: tuple[str, str]) -> tuple[Record, Image.Image]:
    """Two shapes side by side, given as (shape, colour): two tiles and a thumbnail."""
    image = Image.new("RGB", (2 * SIDE, SIDE))
    image.paste(draw(*left), (0, 0))
    image.paste(draw(*right), (SIDE, 0))
    (shape, colour), (other_shape, other_colour) = left, right
    answer = f"A {colour} {shape} and a {other_colour} {other_shape}."
    return _record(f"{colour}-{shape}-{other_colour}-{other_shape}", QUESTION_TWO, answer, image)


def examples() -> list[tuple[Record, Image.Image]]:
    """Every shape in every colour, and every colour beside the next one."""
    colours = list(COLOURS)
    pairs = [
        pair((SHAPES[number % len(SHAPES)], colour), (SHAPES[(number + 2) % len(SHAPES)], colours[number - 1]))
        for number, colour in enumerate(colours)
    ]
    return [single(shape, colour) for shape in SHAPES for colour in COLOURS] + pairs


def write(folder: Path) -> None:
    """Write pictures, JSONL, meta JSON and tokenizer below `folder`, replacing what is there."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    made = examples()
    for record, image in made:
        image.quantize(colors=16).save(folder / "pictures" / record["image"], optimize=True)
    lines = [json.dumps(record) for record, _ in made]
    (folder / "shapes.jsonl").write_text("\n".join(lines) + "\n")
    meta = {"shapes": {"root": "pictures", "annotation": "shapes.jsonl", "max_dynamic_patch": 2}}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    spoken = [turn["value"] for record, _ in made for turn in record["conversations"]]
    tokenizer.save(tokenizer.train(spoken, vocab_size=VOCAB_SIZE), folder / "tokenizer")


def _record(name: str, question: str, answer: str, image: Image.Image) -> tuple[Record, Image.Image]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    size = {"width": image.width, "height": image.height}
    return {"id": name, "image": f"{name}.png", **size, "conversations": turns}, image


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="folder to write to")
def main(out: Path) -> None:
    """Make the example's data set."""
    write(out)
    click.echo(f"{len(examples())} conversations about pictures in {out}")


if __name__ == "__main__":
    main()
