"""Any Hugging Face folder with a tokenizer.json will do, if it has InternVL's tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.data import Tokenizer
from internvl_trainer.data.errors import MissingSpecialTokensError, TokenizerError
from internvl_trainer.storage import open_store
from tests.unit.trainer.data.world import GOLDEN, golden

pytestmark = pytest.mark.unit


def _payload(**changes: Any) -> bytes:
    return json.dumps(json.loads((GOLDEN / "qwen2_5_subset" / "tokenizer.json").read_text()) | changes).encode()


def test_special_tokens_are_found_by_name(qwen: Tokenizer) -> None:
    ids = golden("conversation_labels.json")["special_ids"]

    assert qwen.img_context_id == ids["<IMG_CONTEXT>"]
    assert qwen.im_end_id == ids["<|im_end|>"]
    assert qwen.bos_id is None
    assert qwen.vocab_size == 151674


def test_text_comes_back_as_it_went_in(qwen: Tokenizer) -> None:
    text = "<|im_start|>assistant\nA ball rolls.<|im_end|>"

    assert qwen.decode(qwen.encode(text)) == text
    assert qwen.decode(qwen.encode(text), skip_special_tokens=True) == "assistant\nA ball rolls."


def test_missing_tokens_are_listed_by_name() -> None:
    payload = json.loads(_payload())
    for token in ("<img>", "<|im_end|>"):
        del payload["model"]["vocab"][token]
    payload["added_tokens"] = [t for t in payload["added_tokens"] if t["content"] not in ("<img>", "<|im_end|>")]

    with pytest.raises(MissingSpecialTokensError, match=r"no token <\|im_end\|>, <img>; add them"):
        Tokenizer(json.dumps(payload).encode(), family="qwen2.5")


def test_an_internlm_tokenizer_needs_its_bos() -> None:
    with pytest.raises(MissingSpecialTokensError, match="no token <s>;"):
        Tokenizer(_payload(), family="internlm2.5")


def test_truncation_that_the_folder_asks_for_is_not_applied() -> None:
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}

    assert len(Tokenizer(_payload(truncation=truncation), family="qwen2.5").encode("A ball rolls.")) > 2


def test_a_folder_without_tokenizer_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=f"tokenizer {tmp_path}/tokenizer.json does not exist"):
        Tokenizer.load(f"{tmp_path}/", open_store(), family="qwen2.5")


def test_bytes_that_are_no_tokenizer_are_refused() -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json that tokenizers can read"):
        Tokenizer(b"{}", family="qwen2.5")
