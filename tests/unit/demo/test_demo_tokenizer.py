"""The demo's tokenizer: small, ordinary, and usable by the trainer and by transformers alike."""

from pathlib import Path

import pytest

from hack.demo import tokenizer
from internvl_trainer.data.conversations import ConversationEncoder
from internvl_trainer.data.records import Record, Turn
from internvl_trainer.data.tokenizer import INTERNVL_TOKENS, Tokenizer
from internvl_trainer.storage import open_store

TEXTS = ["animal mammal: hamster", "face smiling: grinning face", "You name pictures.", "\nName it."] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(tokenizer.train(TEXTS, vocab_size=512), made)
    return made


@pytest.mark.unit
def test_it_stays_within_its_vocabulary_and_spells_anything(folder: Path) -> None:
    loaded = Tokenizer.load(str(folder), open_store(), family="qwen2.5")

    assert loaded.vocab_size <= 512
    for text in ("animal mammal: hamster", "ça 猫 \n\t!"):
        assert loaded.decode(loaded.encode(text)) == text
    assert len(loaded.encode("animal mammal: hamster")) < 8


@pytest.mark.unit
def test_a_conversation_is_framed_by_its_special_tokens(folder: Path) -> None:
    loaded = Tokenizer.load(str(folder), open_store(), family="qwen2.5")
    record = Record("demo:1", (Turn("system", "s"), Turn("human", "<image>\nName it."), Turn("gpt", "hamster")), ("x",))

    encoded = ConversationEncoder(loaded, tokens_per_tile=16).encode(record, [2], max_tokens=200)

    assert (encoded.tokens == loaded.img_context_id).sum() == 32
    assert encoded.labels[-2] == loaded.im_end_id


@pytest.mark.integration
def test_transformers_reads_the_same_folder_and_agrees(folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(folder))
    ours = Tokenizer.load(str(folder), open_store(), family="qwen2.5")

    text = "<|im_start|>user\n<img><IMG_CONTEXT></img>\nName it.<|im_end|>\n"
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert theirs.eos_token == "<|im_end|>"
    assert set(INTERNVL_TOKENS) <= set(theirs.all_special_tokens)
