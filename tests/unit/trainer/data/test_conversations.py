"""Token ids and labels equal those the released models were trained with."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data import Tokenizer
from internvl_trainer.data.conversations import IGNORED, SYSTEM_MESSAGE, ConversationEncoder
from internvl_trainer.data.errors import (
    NothingSupervisedError,
    PlaceholderMismatchError,
    ReservedTokenError,
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


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_qwen_ids_and_labels_equal_the_reference(case: dict[str, Any], qwen: Tokenizer) -> None:
    encoder = ConversationEncoder(qwen, tokens_per_tile=1)

    encoded = encoder.encode(_record(case), case["image_tokens"], max_tokens=10_000)

    expected = case["qwen25_internvl2_5"]
    assert encoded.tokens == expected["input_ids"]
    assert encoded.labels == expected["labels"]
    assert encoded.supervised == expected["n_supervised"]


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize(("column", "bos"), [("toy_nobos_internvl2_5", None), ("toy_bos_internvl2_5", 1)])
def test_one_bos_stands_at_the_start_where_the_family_has_one(case: dict[str, Any], column: str, bos: int) -> None:
    encoder = ConversationEncoder(ToyTokenizer(bos), tokens_per_tile=1)

    encoded = encoder.encode(_record(case), case["image_tokens"], max_tokens=10_000)

    assert encoded.tokens == case[column]["input_ids"]
    assert encoded.labels == case[column]["labels"]


def test_a_prompt_ends_with_an_open_answer(qwen: Tokenizer) -> None:
    case = next(case for case in CASES if case["name"] == "human_last")
    encoder = ConversationEncoder(qwen, tokens_per_tile=1)

    prompt = encoder.prompt(_record(case), [])

    # Labels of a whole conversation and a prompt are tokenised by the same rule, so the prompt is its beginning.
    whole = encoder.encode(_record(case), [], max_tokens=10_000).tokens
    assert prompt[: len(whole)] == whole
    assert prompt[len(whole) :] == qwen.encode("<|im_start|>assistant\n")


def test_the_default_system_message_is_the_released_one() -> None:
    assert GOLDEN["templates"]["internvl2_5"]["system_message"] == SYSTEM_MESSAGE


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

        assert _runs(encoded.tokens) == item["input_ids_rle"]
        assert _runs(encoded.labels) == item["labels_rle"]


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

    assert (whole.tokens[:40], whole.labels[:40]) == (cut["input_ids"], cut["labels"])
    with pytest.raises(NothingSupervisedError, match="first 40 of 59 tokens"):
        ConversationEncoder(qwen, tokens_per_tile=1).encode(_record(CASES[0]), [], max_tokens=40)


def _turns(*texts: str) -> tuple[Turn, ...]:
    roles = ("human", "gpt") * len(texts)
    return tuple(Turn(role, text) for role, text in zip(roles, texts, strict=False))


TOY = ConversationEncoder(ToyTokenizer(None), tokens_per_tile=4)


def test_a_text_longer_than_a_pack_is_cut_on_the_right() -> None:
    whole = TOY.encode(Record("s:1", _turns("q", "a" * 50)), [], max_tokens=1000)
    cut = TOY.encode(Record("s:1", _turns("q", "a" * 50)), [], max_tokens=len(whole.tokens) - 30)

    assert cut.tokens == whole.tokens[:-30]
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
            "human turn contains <IMG_CONTEXT>",
        ),
        (Record("s:1", _turns("q", "<IMG_CONTEXT>")), [], 1000, ReservedTokenError, "gpt turn contains <IMG_CONTEXT>"),
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

    learned = [token for token in encoded.labels if token != IGNORED]
    assert learned == ToyTokenizer(None).encode("".join(f"{answer}<|im_end|>" for answer in answers))
    assert encoded.tokens.count(ToyTokenizer(None).img_context_id) == 4 * sum(tiles)
    assert all(label in (IGNORED, token) for token, label in zip(encoded.tokens, encoded.labels, strict=True))
