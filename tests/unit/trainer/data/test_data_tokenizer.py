"""Any Hugging Face folder with a tokenizer.json will do, if it has InternVL's tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.data import Tokenizer
from internvl_trainer.data.errors import MissingSpecialTokensError, TokenizerError
from internvl_trainer.data.tokenizer import INTERNVL_TOKENS
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
    with pytest.raises(TokenizerError, match=f"tokenizer {tmp_path}/tokenizer.json does not exist") as caught:
        Tokenizer.load(f"{tmp_path}/", open_store(), family="qwen2.5")

    assert "use_fast=True, trust_remote_code=True).save_pretrained(NEW)" in str(caught.value)


def _language_model_alone(folder: Path) -> dict[str, int]:
    """A folder whose tokenizer.json is the language model's, without gaps; returns the ids that InternVL's tokens get.

    The subset of Qwen's vocabulary has gaps, in which a library cannot number further tokens."""
    fields = json.loads(_payload())
    fields["model"]["merges"] = []
    alphabet = [token for token in fields["model"]["vocab"] if len(token) == 1]
    names = [*alphabet, "<|im_start|>", "<|im_end|>"]
    fields["model"]["vocab"] = {token: number for number, token in enumerate(names)}
    plain = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    fields["added_tokens"] = [{"id": names.index(token), "content": token} | plain for token in names[-2:]]
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    return {token: len(names) + number for number, token in enumerate(INTERNVL_TOKENS)}


def test_tokens_that_only_the_configuration_lists_are_added(tmp_path: Path) -> None:
    ids = _language_model_alone(tmp_path)
    listed = {str(number): {"content": token, "special": True} for token, number in ids.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))

    loaded = Tokenizer.load(str(tmp_path), open_store(), family="qwen2.5")

    assert loaded.encode("".join(INTERNVL_TOKENS)) == list(ids.values())
    assert loaded.vocab_size == max(ids.values()) + 1


def test_tokens_that_only_added_tokens_json_lists_are_added(tmp_path: Path) -> None:
    ids = _language_model_alone(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps(ids))

    loaded = Tokenizer.load(str(tmp_path), open_store(), family="qwen2.5")

    assert loaded.encode("a<IMG_CONTEXT>")[1:] == [ids["<IMG_CONTEXT>"]] == [loaded.img_context_id]


def test_a_token_that_would_get_another_id_than_listed_is_refused(tmp_path: Path) -> None:
    ids = {token: number + 5 for token, number in _language_model_alone(tmp_path).items()}
    (tmp_path / "added_tokens.json").write_text(json.dumps(ids))

    with pytest.raises(TokenizerError, match=r"lacks <img>, .* under id 263; .* it would have id 258"):
        Tokenizer.load(str(tmp_path), open_store(), family="qwen2.5")


def test_without_any_list_the_missing_tokens_are_named(tmp_path: Path) -> None:
    _language_model_alone(tmp_path)

    with pytest.raises(MissingSpecialTokensError, match="no token <img>, </img>, <IMG_CONTEXT>"):
        Tokenizer.load(str(tmp_path), open_store(), family="qwen2.5")


def test_bytes_that_are_no_tokenizer_are_refused() -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json that tokenizers can read"):
        Tokenizer(b"{}", family="qwen2.5")
