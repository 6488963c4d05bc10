"""Where images and frames stand in a conversation: `<image>` and `<video>` become visual blocks.

A visual block is `<img>`, `<IMG_CONTEXT>` for every visual token of all tiles of one image, `</img>`. Here each block
has one `<IMG_CONTEXT>`, which stands for all of them; the encoder multiplies it.
"""

from internvl_trainer.data.errors import PlaceholderMismatchError
from internvl_trainer.data.records import Record, Turn

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"

_BLOCK = "<img><IMG_CONTEXT></img>"


def placed(record: Record, blocks: int, *, in_answers: bool) -> tuple[Turn, ...]:
    """The record's turns with a visual block for each image or frame in place of each `<image>` of human turns.

    A single image or a video that no human turn places stands before the first one, on a line of its own. `<video>`
    becomes `Frame-1: <image>`, `Frame-2: <image>` and so on, a line each. In a sample without a video, `<video>` is
    text like any other: it is a tag of HTML, too. `<image>` in an answer is text as well, but for the older templates.

    Args:
        record: the sample.
        blocks: how many images or frames it shows.
        in_answers: count `<image>` of answers, too, as far as there are images: the older templates do.

    Raises:
        PlaceholderMismatchError: more or fewer placeholders than images, or than the one video.
    """
    turns = _with_placeholders(record, blocks)
    found = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns if turn.role == "human")
    remaining, filled = blocks, []
    for turn in turns:
        count = min(turn.text.count(IMAGE_PLACEHOLDER), remaining) if turn.role == "human" or in_answers else 0
        if turn.role == "human" and count < turn.text.count(IMAGE_PLACEHOLDER):
            raise _mismatch(record, found, blocks)
        filled.append(Turn(turn.role, turn.text.replace(IMAGE_PLACEHOLDER, _BLOCK, count)) if count else turn)
        remaining -= count
    if remaining:
        raise _mismatch(record, found, blocks)
    return tuple(filled)


def _mismatch(record: Record, found: int, blocks: int) -> PlaceholderMismatchError:
    return PlaceholderMismatchError(
        record.name, f"{found} {IMAGE_PLACEHOLDER} in human turns for {blocks} images; must be equal"
    )


def _with_placeholders(record: Record, blocks: int) -> tuple[Turn, ...]:
    """The turns with all placeholders that go without saying, and frames in place of the video."""
    if record.video is None:
        return _led_by(record, IMAGE_PLACEHOLDER) if blocks == 1 else record.turns
    if own := sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in record.turns if turn.role == "human"):
        raise PlaceholderMismatchError(
            record.name, f"{own} {IMAGE_PLACEHOLDER} in human turns beside a video, whose frames need none; remove them"
        )
    turns = _led_by(record, VIDEO_PLACEHOLDER)
    if (found := sum(turn.text.count(VIDEO_PLACEHOLDER) for turn in turns if turn.role == "human")) > 1:
        raise PlaceholderMismatchError(record.name, f"{found} {VIDEO_PLACEHOLDER} in human turns for one video")
    lines = "".join(f"Frame-{number}: {IMAGE_PLACEHOLDER}\n" for number in range(1, blocks + 1))
    return tuple(Turn(turn.role, _replaced(turn.text, lines)) if turn.role == "human" else turn for turn in turns)


def _led_by(record: Record, placeholder: str) -> tuple[Turn, ...]:
    """The turns, with the placeholder before the first human turn if no human turn has one."""
    human = [position for position, turn in enumerate(record.turns) if turn.role == "human"]
    if not human:
        raise PlaceholderMismatchError(record.name, f"no human turn, where {placeholder} could stand")
    if any(placeholder in record.turns[position].text for position in human):
        return record.turns
    turns = list(record.turns)
    turns[human[0]] = Turn("human", f"{placeholder}\n{turns[human[0]].text}")
    return tuple(turns)


def _replaced(text: str, lines: str) -> str:
    before, placeholder, after = text.partition(VIDEO_PLACEHOLDER)
    return before + lines + after.removeprefix("\n") if placeholder else text
