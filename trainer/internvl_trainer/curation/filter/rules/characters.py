"""Characters that are no text, or no longer."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from internvl_trainer.curation.filter.rules.rule import Measured, answers, excerpt, largest
from internvl_trainer.data.records import Turn

ENOUGH = 40
"""Characters from which on a share says something: `:-)` and `x^2 = 4` are fine answers."""

_SYMBOL = re.compile(r"[^\w\s]|_")

# Lines of tables and dots of contents, which count once.
_RULER = re.compile(r"([^\w\s]|_)\1{3,}")

# What no editor writes: control characters, surrogates, private use, the replacement character.
_BROKEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ue000-\uf8ff\ufffd]")

# The bytes 0x80..0xBF as Windows-1252 shows them; where it has no character, Latin-1's.
_CONTINUATION = (
    "[" + re.escape("".join(bytes([b]).decode("cp1252", "replace") for b in range(0x80, 0xC0))) + "\x80-\x9f]"
)

# UTF-8 that was read as Windows-1252: a lead byte and its continuations. Of two-byte leads only those are taken that
# no language puts before such punctuation: a French É before a no-break space is a letter.
_MOJIBAKE = re.compile(
    f"[ÂÃÎÏÐÑ×ØÙ]{_CONTINUATION}|[à-ï]{_CONTINUATION}{{2}}|[ð-ô]{_CONTINUATION}{{3}}"  # noqa: RUF001
)


def symbols(turns: Sequence[Turn]) -> Measured:
    """Share of an answer's characters, white space left out, that are neither letters, digits nor their marks."""
    return largest([_symbols(text) for text in answers(turns)])


def _symbols(text: str) -> Measured:
    text = _RULER.sub(r"\1", text)
    total = sum(map(len, text.split()))
    if total < ENOUGH:
        return Measured(0.0, "")
    counts = Counter(_SYMBOL.findall(text))
    # Vowel signs of Indic scripts are no letters to Unicode, but parts of them.
    found = {symbol: count for symbol, count in counts.items() if unicodedata.category(symbol)[0] != "M"}
    most = "".join(sorted(found, key=found.__getitem__, reverse=True)[:5])
    return Measured(sum(found.values()) / total, f"mostly {most}")


def garbled(turns: Sequence[Turn]) -> Measured:
    """Share of a turn's characters that a wrong decoding left behind: U+FFFD, control characters, Ã© for é."""
    return largest([_garbled(turn.text) for turn in turns if turn.text])


def _garbled(text: str) -> Measured:
    broken, misread = _BROKEN.findall(text), _MOJIBAKE.findall(text)
    count = len(broken) + sum(map(len, misread))
    return Measured(
        count / len(text), f"{count} characters, such as {excerpt((misread or broken)[0])!a}" if count else ""
    )
