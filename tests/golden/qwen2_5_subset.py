"""Cut Qwen2.5's tokenizer down to the merges that the golden conversations need.

    python tests/golden/qwen2_5_subset.py qwen.tiktoken > tests/golden/qwen2_5_subset/tokenizer.json

The rank file is part of the PyPI package dashscope (dashscope/resources/qwen.tiktoken). Keeping every merge that is
applied to a text, and no other, leaves the ids of that text as they are: greedy merging always takes the lowest rank
present, and ranks that were never applied were never the lowest.
"""

import base64
import json
import sys
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

HERE = Path(__file__).parent
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def texts() -> list[str]:
    """Everything that the golden files tokenise, cut where special tokens stand."""
    golden = json.loads((HERE / "conversation_labels.json").read_text())
    messages = [golden["templates"][name]["system_message"] for name in ("internvl2_5", "Hermes-2")]
    found = ["system\n", "user\n", "assistant\n", "\n", *messages, *(f"system\n{message}" for message in messages)]
    records = golden["cases"] + json.loads((HERE / "dataset_samples.json").read_text())["records"]
    for record in records:
        for turn in record["conversations"]:
            pieces = [turn["value"]]
            for mark in ("<image>", "<ref>", "</ref>", "<box>", "</box>"):
                pieces = [part for piece in pieces for part in piece.split(mark)]
            found += [turn["value"], *pieces, "\n" + pieces[0]]
            found += [prefix + piece for piece in pieces for prefix in ("user\n", "assistant\n", "system\n")]
    return found


def applied(word: bytes, ranks: dict[bytes, int]) -> set[tuple[bytes, bytes]]:
    """The pairs that byte-pair encoding merges in one word."""
    parts = [bytes([byte]) for byte in word]
    merges = set()
    while True:
        ranked = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not ranked:
            return merges
        place = min(ranked)[1]
        merges.add((parts[place], parts[place + 1]))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def main(rank_file: str) -> None:
    """Print tokenizer.json."""
    lines = (line.split() for line in Path(rank_file).read_text().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    splitter = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    merges: set[tuple[bytes, bytes]] = set()
    for text in texts():
        for word, _ in splitter.pre_tokenize_str(text):
            merges |= applied(word.encode(), ranks)
    as_text = _byte_alphabet()
    specials = json.loads((HERE / "conversation_labels.json").read_text())["special_ids"]
    kept = {bytes([byte]) for byte in range(256)} | {a + b for a, b in merges}
    vocabulary = {"".join(as_text[byte] for byte in token): ranks[token] for token in kept} | specials
    ordered = sorted(merges, key=lambda pair: ranks[pair[0] + pair[1]])
    added = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": n, "content": t} | added for t, n in sorted(specials.items(), key=lambda x: x[1])],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            "merges": [["".join(as_text[byte] for byte in part) for part in pair] for pair in ordered],
        },
    }
    sys.stdout.write(json.dumps(tokenizer, ensure_ascii=False, indent=0) + "\n")


def _byte_alphabet() -> dict[int, str]:
    """The printable stand-in of each byte in byte-level vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


if __name__ == "__main__":
    main(sys.argv[1])
