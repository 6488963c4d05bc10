"""Token ids and labels equal those the released models were trained with."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data import Tokenizer
from internvl_trainer.data.conversations import IGNORED, TEMPLATES, ConversationEncoder, Encoded, TemplateName
from internvl_trainer.data.errors import (
    BadSampleError,
    NothingSupervisedError,
    PlaceholderMismatchError,
    ReservedTokenError,
    TurnOrderError,
    VisualBlockCutError,
)
from internvl_trainer.data.records import Record, Turn
from internvl_trainer.data.tiling import tile_count
from tests.unit.trainer.data.world import golden

pytestmark = pytest.mark.unit

GOLDEN = golden("conversation_labels.json")
CASES = GOLDEN["cases"]
IDS = [case["name"] for case in CASES]


class ToyTokenizer:
    """One token per character, specials by their place in a list: the golden file's stand-in for InternLM2's."""

    def __init__(self, bos_id: int | None) -> None:
        self.bos_id = bos_id
        self.img_context_id = GOLDEN["toy_specials"].index("<IMG_CONTEXT>")

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            special = next((token for token in GOLDEN["toy_specials"] if text.startswith(token)), None)
            ids.append(1000 + ord(text[0]) if special is None else GOLDEN["toy_specials"].index(special))
            text = text[1 if special is None else len(special) :]
        return ids


def _record(case: dict[str, Any]) -> Record:
    turns = tuple(Turn(turn["from"], turn["value"]) for turn in case["conversations"])
    return Record("golden:case", turns, images=tuple(f"{n}.png" for n in range(len(case["image_tokens"]))))


COLUMNS: list[tuple[str, TemplateName, int | None]] = [
    ("toy_nobos_internvl2_5", "internvl2_5", None),
    ("toy_bos_internvl2_5", "internvl2_5", 1),
    ("toy_bos_internlm2-chat", "internlm2-chat", 1),
]


def _check(case: dict[str, Any], column: str, encoder: ConversationEncoder) -> None:
    expected, record = case[column], _record(case)
    if "error" in expected:
        with pytest.raises(BadSampleError, match="sample golden:case: "):
            encoder.labelled(record, case["image_tokens"], max_tokens=10_000)
        return
    whole = encoder.labelled(record, case["image_tokens"], max_tokens=10_000)
    assert whole.tokens.tolist() == expected["input_ids"]
    assert whole.labels.tolist() == expected["labels"]
    assert whole.supervised == expected["n_supervised"]


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("template", ["internvl2_5", "Hermes-2"])
def test_qwen_ids_and_labels_equal_the_reference(case: dict[str, Any], template: TemplateName, qwen: Tokenizer) -> None:
    encoder = ConversationEncoder(qwen, tokens_per_tile=1, template=template)

    _check(case, f"qwen25_{template}", encoder)


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize(("column", "template", "bos"), COLUMNS)
def test_one_bos_stands_at_the_start_where_the_family_has_one(
    case: dict[str, Any], column: str, template: TemplateName, bos: int | None
) -> None:
    _check(case, column, ConversationEncoder(ToyTokenizer(bos), tokens_per_tile=1, template=template))


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_and_prompts_equal_the_reference(case: dict[str, Any], name: TemplateName) -> None:
    """The reference writes its prompts from the human and gpt turns alone."""
    template = TEMPLATES[name]
    said = [Turn(turn["from"], turn["value"]) for turn in case["conversations"] if turn["from"] != "system"]
    asked = said[:-1] if said[-1].role == "gpt" else said

    assert template.text(template.arrange("s", said)) == case["get_prompt"][name]
    if (prompt := case["get_prompt"].get(f"{name}__generation")) is not None:
        assert template.text(template.arrange("s", asked), open_answer=True) == prompt


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_the_released_ones(name: TemplateName) -> None:
    template, released = TEMPLATES[name], GOLDEN["templates"][name]
    turns = [Turn("human", "q"), Turn("gpt", "a")]

    system = released["system_template"].format(system_message=released["system_message"])
    user, assistant = released["roles"]
    expected = [system, user + "q", assistant + "a"]
    assert template.text(template.arrange("s", turns)) == "".join(part + released["sep"] for part in expected)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_ends_with_an_open_answer(template: TemplateName, qwen: Tokenizer) -> None:
    case = next(case for case in CASES if case["name"] == "human_last")
    encoder = ConversationEncoder(qwen, tokens_per_tile=1, template=template)

    prompt = encoder.prompt(_record(case), [])

    # Labels of a whole conversation and a prompt are tokenised by the same rule, so the prompt is its beginning.
    whole = encoder.labelled(_record(case), [], max_tokens=10_000).tokens.tolist()
    assert prompt[: len(whole)] == whole
    assert prompt[len(whole) :] == qwen.encode("<|im_start|>assistant\n")


def test_whole_records_equal_the_reference_data_set(qwen: Tokenizer) -> None:
    golden_set = golden("dataset_samples.json")
    encoder = ConversationEncoder(qwen, tokens_per_tile=256)
    for item in golden_set["items"]:
        entry = golden_set["records"][item["record"]]
        images = [entry["image"]] if isinstance(entry.get("image"), str) else entry.get("image", [])
        turns = tuple(Turn(turn["from"], turn["value"]) for turn in entry["conversations"])
        share = max(1, item["max_dynamic_patch"] // max(1, len(images)))
        tiles = [_tiles(golden_set["image_sizes"][name], share) for name in images]

        encoded = encoder.encode(Record("golden:set", turns, tuple(images)), tiles, max_tokens=16_384)

        assert _runs(encoded.tokens.tolist()) == item["input_ids_rle"]
        assert _runs(encoded.labels.tolist()) == item["labels_rle"]


def _tiles(size: list[int], max_tiles: int) -> int:
    return tile_count(*size, max_tiles=max_tiles)


def _runs(values: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return runs


def test_the_golden_cut_of_forty_tokens_leaves_nothing_to_learn(qwen: Tokenizer) -> None:
    cut = GOLDEN["truncated_to_40"]
    whole = ConversationEncoder(qwen, tokens_per_tile=1).encode(_record(CASES[0]), [], max_tokens=10_000)

    assert whole.tokens[:40].tolist() == cut["input_ids"]
    assert whole.labels[:40].tolist() == cut["labels"]
    with pytest.raises(NothingSupervisedError, match="first 40 of 59 tokens"):
        ConversationEncoder(qwen, tokens_per_tile=1).encode(_record(CASES[0]), [], max_tokens=40)


def _turns(*texts: str) -> tuple[Turn, ...]:
    roles = ("human", "gpt") * len(texts)
    return tuple(Turn(role, text) for role, text in zip(roles, texts, strict=False))


TOY = ConversationEncoder(ToyTokenizer(None), tokens_per_tile=4)


def test_a_text_longer_than_a_pack_is_cut_on_the_right() -> None:
    whole = TOY.encode(Record("s:1", _turns("q", "a" * 50)), [], max_tokens=1000)
    cut = TOY.encode(Record("s:1", _turns("q", "a" * 50)), [], max_tokens=len(whole.tokens) - 30)

    assert cut.tokens.tolist() == whole.tokens[:-30].tolist()
    assert 0 < cut.supervised < whole.supervised


@pytest.mark.parametrize(
    ("record", "tiles", "limit", "error", "message"),
    [
        (Record("s:1", _turns("q", "a")), [], 80, NothingSupervisedError, "no answer among the first 80 of"),
        (Record("s:1", _turns("q")), [], 1000, NothingSupervisedError, "nothing can be learned"),
        (Record("s:1", _turns("<image>", "a"), ("x",)), [9], 110, VisualBlockCutError, "of 36 visual tokens; lower"),
        (Record("s:1", _turns("<image>", "a")), [], 1000, PlaceholderMismatchError, "1 <image> in human turns for 0"),
        (Record("s:1", _turns("q", "a"), ("x", "y")), [1, 1], 1000, PlaceholderMismatchError, "0 <image> .* for 2"),
        (
            Record("s:1", _turns("<IMG_CONTEXT>", "a")),
            [],
            1000,
            ReservedTokenError,
            "contains <IMG_CONTEXT> 1 times",
        ),
        (Record("s:1", _turns("q", "<IMG_CONTEXT>")), [], 1000, ReservedTokenError, "contains <IMG_CONTEXT> 1 times"),
    ],
)
def test_a_sample_that_cannot_be_learned_has_a_typed_reason(
    record: Record, tiles: list[int], limit: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"sample s:1: .*{message}"):
        TOY.encode(record, tiles, max_tokens=limit)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=12)


@given(st.lists(TEXT, min_size=1, max_size=4), st.lists(st.integers(1, 5), max_size=4))
def test_exactly_the_answers_are_learned(answers: list[str], tiles: list[int]) -> None:
    turns = [Turn("human", "<image>" * len(tiles) + "q")]
    for answer in answers:
        turns += [Turn("gpt", answer), Turn("human", "more")]
    record = Record("s:1", tuple(turns), tuple("x" * len(tiles)))

    encoded = TOY.encode(record, tiles, max_tokens=10_000)

    learned = encoded.labels[encoded.labels != IGNORED].tolist()
    assert learned == ToyTokenizer(None).encode("".join(f"{answer}<|im_end|>" for answer in answers))
    assert np.count_nonzero(encoded.tokens == ToyTokenizer(None).img_context_id) == 4 * sum(tiles)
    assert np.all((encoded.labels == IGNORED) | (encoded.labels == encoded.tokens))


def _learned(encoded: Encoded) -> str:
    specials = GOLDEN["toy_specials"]
    ids = encoded.labels[encoded.labels != IGNORED].tolist()
    return "".join(specials[token] if token < len(specials) else chr(token - 1000) for token in ids)


def _text(encoded: Encoded) -> str:
    return _learned(Encoded(encoded.tokens, encoded.tokens))


@pytest.mark.parametrize("question", ["What happens?", "<video>What happens?", "<video>\nWhat happens?"])
def test_a_video_becomes_numbered_frames(question: str) -> None:
    record = Record("s:1", _turns(question, "<video> is a tag"), video="v.mp4")

    text = _text(TOY.encode(record, [1, 1], max_tokens=1000))

    block = "<img>" + "<IMG_CONTEXT>" * 4 + "</img>"
    assert f"user\nFrame-1: {block}\nFrame-2: {block}\nWhat happens?<|im_end|>" in text
    assert text.endswith("assistant\n<video> is a tag<|im_end|>\n")


def test_a_video_stands_where_a_later_turn_places_it() -> None:
    record = Record("s:1", _turns("hi", "ho", "See: <video>", "ok"), video="v.mp4")

    text = _text(TOY.encode(record, [1], max_tokens=1000))

    assert "user\nhi<|im_end|>" in text
    assert "user\nSee: Frame-1: <img>" in text


def test_without_a_video_its_placeholder_is_text() -> None:
    record = Record("s:1", _turns("what does <video> do in HTML?", "it plays"))

    assert "what does <video> do" in _text(TOY.encode(record, [], max_tokens=1000))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("<video> and <video>", "a"), "2 <video> in human turns for one video"),
        (("<video>", "a", "<video>", "b"), "2 <video> in human turns"),
        (("<video> <image>", "a"), "1 <image> in human turns beside a video"),
    ],
)
def test_a_video_among_other_placeholders_is_refused(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(PlaceholderMismatchError, match=message):
        TOY.encode(Record("s:1", _turns(*texts), video="v.mp4"), [1, 1], max_tokens=1000)


def test_an_image_without_anybody_to_show_it_is_refused() -> None:
    record = Record("s:1", (Turn("gpt", "a"),), images=("x.png",))

    with pytest.raises(PlaceholderMismatchError, match="no human turn, where <image> could stand"):
        TOY.encode(record, [1], max_tokens=1000)


OLDER: list[TemplateName] = ["Hermes-2", "internlm2-chat"]


def _older(template: TemplateName) -> ConversationEncoder:
    return ConversationEncoder(ToyTokenizer(1), tokens_per_tile=4, template=template)


@pytest.mark.parametrize("template", OLDER)
def test_older_templates_learn_each_answer_and_its_end(template: TemplateName) -> None:
    record = Record("s:1", _turns("<image>q", "one", "more", "two"), images=("x.png",))

    encoded = _older(template).encode(record, [3], max_tokens=1000)

    assert _learned(encoded) == "one<|im_end|>two<|im_end|>"
    assert np.count_nonzero(encoded.tokens == ToyTokenizer(1).img_context_id) == 12
    assert _text(encoded).startswith("<s>") == (template == "internlm2-chat")


def test_older_templates_differ_in_white_space_and_open_questions() -> None:
    spaced = Record("s:1", _turns(" q ", " a ", "open"))

    learned = _learned(_older("internlm2-chat").encode(spaced, [], max_tokens=1000))
    assert learned == "a<|im_end|><|im_start|>user\nopen<|im_end|>"
    with pytest.raises(NothingSupervisedError):
        _older("Hermes-2").encode(spaced, [], max_tokens=1000)


@pytest.mark.parametrize(("template", "learned"), [("internvl2_5", "<|im_end|>"), ("internlm2-chat", "")])
def test_only_the_newest_template_teaches_to_say_nothing(template: TemplateName, learned: str) -> None:
    """The older ones leave the turn of an empty text open."""
    encoder = ConversationEncoder(ToyTokenizer(None), tokens_per_tile=4, template=template)

    encoded = encoder.labelled(Record("s:1", _turns("q", "", "more", "two")), [], max_tokens=1000)

    assert _learned(encoded) == f"{learned}two<|im_end|>"
    opened = "<|im_start|>assistant\n<|im_start|>user\nmore" in _text(encoded)
    assert opened == (template == "internlm2-chat")


@pytest.mark.parametrize("texts", [("q", ""), ("", "a"), ("q", "a", "", "b"), ("q", "", "more", "b")])
def test_hermes_learns_nothing_of_a_conversation_with_an_empty_text(texts: tuple[str, ...]) -> None:
    labelled = _older("Hermes-2").labelled(Record("s:1", _turns(*texts)), [], max_tokens=1000)

    assert not labelled.supervised


def test_a_text_that_is_cut_is_not_accounted_for_to_its_end() -> None:
    record = Record("s:1", _turns("q", "a" * 50, "open"))
    length = len(_older("Hermes-2").labelled(record, [], max_tokens=1000).tokens)

    # The cut hides the open question, and with it the reason to learn nothing.
    cut = _older("Hermes-2").encode(record, [], max_tokens=length - 30)

    assert set(_learned(cut)) == {"a"}


@pytest.mark.parametrize("template", OLDER)
@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((Turn("system", "s"), *_turns("q", "a")), "turn 0 is of system where"),
        ((Turn("human", "q"), Turn("human", "q"), Turn("gpt", "a")), "turn 1 is of human where template .* has gpt"),
    ],
)
def test_older_templates_refuse_turns_out_of_order(
    template: TemplateName, turns: tuple[Turn, ...], message: str
) -> None:
    with pytest.raises(TurnOrderError, match=message):
        _older(template).encode(Record("s:1", turns), [], max_tokens=1000)


@pytest.mark.parametrize("template", OLDER)
def test_older_templates_leave_out_an_answer_before_any_question(template: TemplateName) -> None:
    turns = (Turn("gpt", "welcome"), *_turns("q", "a"))

    assert _learned(_older(template).encode(Record("s:1", turns), [], max_tokens=1000)) == "a<|im_end|>"


@pytest.mark.parametrize("template", OLDER)
def test_an_answer_that_is_left_out_takes_no_image(template: TemplateName) -> None:
    turns = (Turn("gpt", "Send an <image>!"), *_turns("<image>q", "a"))

    text = _text(_older(template).encode(Record("s:1", turns, images=("x.png",)), [1], max_tokens=1000))

    assert "Send" not in text
    assert "user\n<img>" in text


@pytest.mark.parametrize("template", OLDER)
def test_older_templates_fill_answers_with_images_that_are_left(template: TemplateName) -> None:
    record = Record("s:1", _turns("<image>q", "like <image> or <image>"), images=("x.png", "y.png"))

    text = _text(_older(template).encode(record, [1, 1], max_tokens=1000))

    assert text.count("</img>") == 2
    assert "or <image>" in text
