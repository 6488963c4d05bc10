"""Tiny random InternVL models built with `transformers`, and what they compute: an implementation that is not ours.

Shapes: S tokens of a sample, V vocabulary, N tiles, P pixels per side.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

IMAGE = 7
"""Id of `<IMG_CONTEXT>`."""
VOCABULARY = 75
"""Divisible by nothing that tensor parallelism could ask for."""

STYLES: dict[str, dict[str, Any]] = {
    "300m-style": {"norm_type": "layer_norm", "attention_bias": True, "use_qk_norm": False, "num_attention_heads": 4},
    # Three heads: as the 25 of InternViT-6B, no tensor-parallel size but 1 divides them.
    "6b-style": {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True, "num_attention_heads": 3},
}


@dataclass(frozen=True)
class Sample:
    """A conversation without padding. labels_S[t] is token t+1 where that is supervised, else -100."""

    tokens_S: np.ndarray
    labels_S: np.ndarray
    tiles_NPPC: np.ndarray

    @property
    def weight(self) -> float:
        """Square averaging: each supervised token of the sample weighs x^-0.5."""
        return float((self.labels_S != -100).sum() ** -0.5)


def build(style: str) -> InternVLForConditionalGeneration:
    """A model with random weights everywhere: also in norms, biases and layer scales, where a fresh model has none."""
    vision = InternVLVisionConfig(
        hidden_size=24, num_hidden_layers=3, intermediate_size=48, image_size=[28, 28], patch_size=[7, 7],
        layer_norm_eps=1e-6, **STYLES[style],
    )  # fmt: skip
    text = Qwen2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=VOCABULARY, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=False,
        max_position_embeddings=512, rms_norm_eps=1e-6,
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, tie_word_embeddings=False,
        attn_implementation="eager",
    )  # fmt: skip
    model = InternVLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(len(style))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.train()


def samples(tokens_per_tile: int = 4, side: int = 28) -> list[Sample]:
    """Two pictures' worth of tiles, one picture, text alone."""
    draw = np.random.default_rng(0)
    return [_sample(draw, tiles, tokens_per_tile, side) for tiles in (2, 1, 0)]


def logits_of(model: InternVLForConditionalGeneration, sample: Sample) -> torch.Tensor:
    """[S, V], of one sample by itself."""
    pixels_NCPP = None
    if len(sample.tiles_NPPC):
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        normalised = (sample.tiles_NPPC / 255 - mean) / std
        pixels_NCPP = torch.tensor(normalised.transpose(0, 3, 1, 2), dtype=torch.float32)
    logits: torch.Tensor = model(input_ids=torch.tensor(sample.tokens_S)[None], pixel_values=pixels_NCPP).logits[0]
    return logits


def gradients_of(model: InternVLForConditionalGeneration, of: list[Sample], folder: Path) -> dict[str, torch.Tensor]:
    """Gradients of sum(w * CE) / sum(w) over samples, by the names under which `transformers` saves the weights."""
    weighted = torch.zeros(())
    for sample in of:
        losses_S = torch.nn.functional.cross_entropy(
            logits_of(model, sample), torch.tensor(sample.labels_S), ignore_index=-100, reduction="none"
        )
        weighted = weighted + sample.weight * losses_S.sum()
    (weighted / sum(sample.weight * (sample.labels_S != -100).sum() for sample in of)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    return saved(model, folder)


def saved(model: InternVLForConditionalGeneration, folder: Path) -> dict[str, torch.Tensor]:
    """Save a model to a folder, and what the file holds."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def _sample(draw: np.random.Generator, tiles: int, tokens_per_tile: int, side: int) -> Sample:
    question = draw.integers(10, VOCABULARY, 5)
    answer = draw.integers(10, VOCABULARY, int(draw.integers(4, 9)))
    tokens = np.concatenate([question, np.full(tiles * tokens_per_tile, IMAGE), answer]).astype(np.int64)
    labels = np.full(len(tokens), -100, np.int64)
    labels[-len(answer) - 1 : -1] = answer
    pixels = draw.integers(0, 256, (tiles, side, side, 3), dtype=np.uint8)
    return Sample(tokens, labels, pixels)
