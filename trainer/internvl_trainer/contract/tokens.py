"""Special tokens of the two tokenizer families, as the released checkpoints number them: frozen data.

Sources: the published tokenizer and chat configurations. The nine added tokens follow the base vocabulary in order.
"""

from typing import Literal

from internvl_trainer.contract.base import Contract

IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
ADDED = (IMAGE_START, IMAGE_END, IMAGE_CONTEXT, "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""What InternVL adds to each language model's vocabulary, in the order of their ids."""


class TokenizerFacts(Contract):
    """What a checkpoint's embedding rows mean where they are special."""

    template: Literal["internvl2_5"] = "internvl2_5"
    first_added: int
    """Id of the first of `ADDED`, which is also the number of tokens that the base tokenizer knows."""
    turn_start: int
    """`<|im_start|>`"""
    turn_end: int
    """`<|im_end|>`, where an answer stops."""
    pad: int
    bos: int | None = None
    """Begins each sample once; None where the family has no such token."""

    @property
    def vocab_size(self) -> int:
        """Tokens in all: rows of embedding and head in a released checkpoint."""
        return self.first_added + len(ADDED)

    def added(self, token: str) -> int:
        """The id of one of `ADDED`."""
        return self.first_added + ADDED.index(token)


FACTS: dict[str, TokenizerFacts] = {
    "qwen2.5": TokenizerFacts(first_added=151665, turn_start=151644, turn_end=151645, pad=151643),
    "internlm2.5": TokenizerFacts(first_added=92544, turn_start=92543, turn_end=92542, pad=2, bos=1),
}
"""By `LanguageGeometry.family`. InternLM2.5 pads with its end-of-sequence token: masks must come from lengths."""


def of(family: str) -> TokenizerFacts:
    """The facts of a family that the catalogue knows."""
    return FACTS[family]
