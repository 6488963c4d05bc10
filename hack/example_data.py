"""Make the data of trainer/examples: coloured shapes, questions about them, and a tokenizer.

trainer/examples/tiny.yaml trains on single pictures; trainer/examples/mixture.yaml has one data set of each kind.

    python -m hack.example_data

It is committed, since an example that has to be prepared is not run; a test compares it with what this makes.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
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
QUESTION_PAIR = "Image-1: <image>\nImage-2: <image>\nWhat is in the two pictures?"
QUESTION_CLIP = "<video>\nWhich shape moves, and where to?"
SENTENCES = (
    ("How many sides has a triangle?", "Three."), ("How many sides has a square?", "Four."),
    ("How many sides has a circle?", "None."), ("Which shape is round and has a hole?", "A ring."),
    ("Which shape has two lines?", "A cross."), ("Which colour has a ripe tomato?", "Red."),
    ("Which colour has grass?", "Green."), ("Which colour has the sky?", "Blue."),
    ("Which colour has a lemon?", "Yellow."), ("Which colour has coal?", "Black."),
)  # fmt: skip
FRAMES, FRAMES_PER_SECOND = 16, 8

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


def two_pictures(left: tuple[str, str], right: tuple[str, str]) -> Record:
    """A question about two pictures of single shapes, given as (shape, colour)."""
    (shape, colour), (other_shape, other_colour) = left, right
    return {
        "id": f"{colour}-{shape}-and-{other_colour}-{other_shape}",
        "image": [f"{colour}-{shape}.png", f"{other_colour}-{other_shape}.png"],
        "width": [SIDE, SIDE],
        "height": [SIDE, SIDE],
        "conversations": _turns(QUESTION_PAIR, f"A {colour} {shape}, then a {other_colour} {other_shape}."),
    }


def clip(shape: str, colour: str, direction: str) -> tuple[Record, list[Image.Image]]:
    """A shape that crosses the picture to the right or to the left, in two seconds."""
    small, way = draw(shape, colour).resize((SIDE // 2, SIDE // 2)), SIDE - SIDE // 2
    places = [way * number // (FRAMES - 1) for number in range(FRAMES)]
    frames = []
    for place in places if direction == "right" else reversed(places):
        frame = Image.new("RGB", (SIDE, SIDE), "white")
        frame.paste(small, (place, SIDE // 4))
        frames.append(frame)
    name = f"{colour}-{shape}-{direction}"
    turns = _turns(QUESTION_CLIP, f"A {colour} {shape} moves to the {direction}.")
    return {"id": name, "video": f"{name}.mp4", "conversations": turns}, frames


def examples() -> list[tuple[Record, Image.Image]]:
    """Every shape in every colour, and every colour beside the next one."""
    colours = list(COLOURS)
    pairs = [
        pair((SHAPES[number % len(SHAPES)], colour), (SHAPES[(number + 2) % len(SHAPES)], colours[number - 1]))
        for number, colour in enumerate(colours)
    ]
    return [single(shape, colour) for shape in SHAPES for colour in COLOURS] + pairs


def clips() -> list[tuple[Record, list[Image.Image]]]:
    """Every shape, moving to either side by turns."""
    directions = ("right", "left")
    return [
        clip(shape, colour, directions[number % 2])
        for number, (shape, colour) in enumerate(zip(SHAPES, COLOURS, strict=False))
    ]


def write(folder: Path) -> None:
    """Write pictures, videos, JSONL, meta JSON and tokenizer below `folder`, replacing what is there."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "clips").mkdir(exist_ok=True)
    made, moving = examples(), clips()
    for record, image in made:
        image.quantize(colors=16).save(folder / "pictures" / record["image"], optimize=True)
    for record, frames in moving:
        save_clip(frames, folder / "clips" / record["video"])
    shapes = [(shape, colour) for shape, colour in zip(SHAPES * 2, [*COLOURS] * 2, strict=False)]
    _write_lines(folder / "shapes.jsonl", [record for record, _ in made])
    _write_lines(folder / "pairs.jsonl", [two_pictures(*pair) for pair in pairwise(shapes)])
    _write_lines(folder / "clips.jsonl", [record for record, _ in moving])
    _write_lines(
        folder / "sentences.jsonl",
        [{"id": number, "conversations": _turns(*sentence)} for number, sentence in enumerate(SENTENCES)],
    )
    meta = {"shapes": {"root": "pictures", "annotation": "shapes.jsonl", "max_dynamic_patch": 2}}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    spoken = [turn["value"] for record, _ in made for turn in record["conversations"]]
    tokenizer.save(tokenizer.train(spoken, vocab_size=VOCAB_SIZE), folder / "tokenizer")


def save_clip(frames: list[Image.Image], path: Path) -> None:
    """H.264 in MP4, as cameras write it; by one thread, so that the same frames give the same bytes."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        encoding = {"crf": "30", "preset": "veryslow", "threads": "1", "flags": "+bitexact"}
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=encoding)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def _record(name: str, question: str, answer: str, image: Image.Image) -> tuple[Record, Image.Image]:
    size = {"width": image.width, "height": image.height}
    return {"id": name, "image": f"{name}.png", **size, "conversations": _turns(question, answer)}, image


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _write_lines(path: Path, records: list[Record]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="folder to write to")
def main(out: Path) -> None:
    """Make the example's data set."""
    write(out)
    click.echo(
        f"data sets of {len(examples())} pictures, of pairs of them, of {len(clips())} videos and of text in {out}"
    )


if __name__ == "__main__":
    main()
