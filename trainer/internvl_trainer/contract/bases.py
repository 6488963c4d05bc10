"""The published language models that the released InternVL-2.5 models started from: frozen data.

Source: their config.json files. What is here matters when one of them is imported, or when a model that came from it
is exported; geometry and checkpoints do not hold it.
"""

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Contract
from internvl_trainer.contract.catalog import LanguageGeometry


class LanguageBase(Contract):
    """One published language model."""

    repository: str
    vocab_size: int
    """Rows of its embedding, which for Qwen2.5 are more than its tokenizer knows."""
    ties_embeddings: bool = False
    """Whether it has no head of its own: InternVL always has one, which then starts as a copy of the embedding."""
    rope_factor: float | None = None
    """Of dynamic RoPE scaling, which acts beyond `max_positions` only; None: no scaling."""


LANGUAGE_BASES: dict[str, LanguageBase] = {
    "InternVL2_5-1B": LanguageBase(repository="Qwen/Qwen2.5-0.5B-Instruct", vocab_size=151936, ties_embeddings=True),
    "InternVL2_5-2B": LanguageBase(repository="internlm/internlm2_5-1_8b-chat", vocab_size=92544, rope_factor=2.0),
    "InternVL2_5-4B": LanguageBase(repository="Qwen/Qwen2.5-3B-Instruct", vocab_size=151936, ties_embeddings=True),
    "InternVL2_5-8B": LanguageBase(repository="internlm/internlm2_5-7b-chat", vocab_size=92544, rope_factor=2.0),
    "InternVL2_5-26B": LanguageBase(repository="internlm/internlm2_5-20b-chat", vocab_size=92544, rope_factor=2.5),
    "InternVL2_5-38B": LanguageBase(repository="Qwen/Qwen2.5-32B-Instruct", vocab_size=152064),
    "InternVL2_5-78B": LanguageBase(repository="Qwen/Qwen2.5-72B-Instruct", vocab_size=152064),
}
"""By name of the InternVL model."""


def base_of(language: LanguageGeometry) -> LanguageBase | None:
    """The base of a released model with exactly this language geometry; None where there is none."""
    return next((base for name, base in LANGUAGE_BASES.items() if catalog.get(name).language == language), None)
