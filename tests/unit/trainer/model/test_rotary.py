"""RoPE over packs against megatron.core's and transformers', and what it does to the attention around it.

Shapes: S tokens, N heads, D head dim, R = D/2 angles.
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_thd
from megatron.core.packed_seq_params import PackedSeqParams
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding, apply_rotary_pos_emb

from internvl_trainer.model.rotary import RotaryAngles, RotarySegments, positions_in_segments, rotate

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
EXACT = {"rtol": 0, "atol": 1e-6}
LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=8)


class OneRank:
    """A context-parallel group of one, of which megatron asks two things."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def segments(lengths: list[int], width: int, theta: float) -> RotarySegments:
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    longest = max(lengths)
    plain = PackedSeqParams("thd", bounds, bounds, max_seqlen_q=longest, max_seqlen_kv=longest)
    return RotaryAngles(width, theta, CPU).of(plain, sum(lengths))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform, so that no value is far from one and an absolute tolerance means the same everywhere."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def through(run: Any, x_SND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output and the gradient of the input under a fixed loss."""
    leaf = x_SND.detach().clone().requires_grad_()
    out_SND = run(leaf)
    (out_SND * drawn(*out_SND.shape, seed=1)).sum().backward()
    assert leaf.grad is not None
    return out_SND.detach(), leaf.grad


@settings(deadline=None)
@given(LENGTHS, st.sampled_from([1, 3]), st.sampled_from([64, 128]), st.sampled_from([1e4, 1e6, 5e7]))
def test_packs_are_rotated_as_by_megatron(lengths: list[int], heads: int, width: int, theta: float) -> None:
    packed, x_SND = segments(lengths, width, theta), drawn(sum(lengths), heads, width)
    angles_LR = torch.outer(torch.arange(max(lengths)), 1 / theta ** (torch.arange(0, width, 2) / width))
    angles_L11D = torch.cat([angles_LR, angles_LR], -1)[:, None, None]

    def megatron(x_SND: torch.Tensor) -> torch.Tensor:
        rotated: torch.Tensor = _apply_rotary_pos_emb_thd(x_SND, packed.cu_seqlens_q, angles_L11D, cp_group=OneRank())
        return rotated

    expected = through(megatron, x_SND)
    seen = through(lambda x_SND: rotate(x_SND, packed.cos_S1R, packed.sin_S1R), x_SND)
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.sampled_from([1e4, 1e6]))
def test_each_segment_is_rotated_as_by_transformers_alone(lengths: list[int], theta: float) -> None:
    width, heads = 128, 2
    config = Qwen2Config(
        hidden_size=width * heads,
        num_attention_heads=heads,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    table = Qwen2RotaryEmbedding(config)
    packed, x_SND = segments(lengths, width, theta), drawn(sum(lengths), heads, width)

    def transformers(x_SND: torch.Tensor) -> torch.Tensor:
        parts = []
        for x_TND in x_SND.split(lengths):
            cos_1TD, sin_1TD = table(x_TND, torch.arange(len(x_TND))[None])
            x_1NTD = x_TND.transpose(0, 1)[None]
            parts.append(apply_rotary_pos_emb(x_1NTD, x_1NTD, cos_1TD, sin_1TD)[0][0].transpose(0, 1))
        return torch.cat(parts)

    expected = through(transformers, x_SND)
    seen = through(lambda x_SND: rotate(x_SND, packed.cos_S1R, packed.sin_S1R), x_SND)
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@given(LENGTHS)
def test_positions_restart_in_each_segment(lengths: list[int]) -> None:
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    expected = np.concatenate([np.arange(length) for length in lengths])
    assert positions_in_segments(bounds, sum(lengths)).tolist() == expected.tolist()


def test_nothing_is_read_back_from_the_device() -> None:
    """A tensor on torch's `meta` device has no values: whatever asks for one fails."""
    meta = torch.device("meta")
    bounds = torch.empty(4, dtype=torch.int32, device=meta)
    plain = PackedSeqParams("thd", bounds, bounds, max_seqlen_q=40, max_seqlen_kv=40)
    packed = RotaryAngles(64, 1e6, meta).of(plain, 90)
    x_SND = torch.empty(90, 2, 64, device=meta, requires_grad=True)
    rotate(x_SND, packed.cos_S1R, packed.sin_S1R).sum().backward()
    assert x_SND.grad is not None
    assert (packed.cos_S1R.shape, packed.cos_S1R.dtype) == ((90, 1, 32), torch.float32)
    assert (packed.max_seqlen_q, packed.cu_seqlens_kv) == (40, bounds)


def test_in_bfloat16_the_result_is_closer_to_exact_arithmetic_than_with_rounded_angles() -> None:
    lengths, width = [700, 1, 2000], 128
    packed, x_SND = segments(lengths, width, 1e6), drawn(sum(lengths), 2, width).bfloat16()
    cos_S1D, sin_S1D = (torch.cat([table, table], -1) for table in (packed.cos_S1R, packed.sin_S1R))
    swapped_SND = torch.cat([-x_SND[..., width // 2 :], x_SND[..., : width // 2]], -1)
    exact_SND = x_SND.double() * cos_S1D.double() + swapped_SND.double() * sin_S1D.double()
    rounded_SND = x_SND * cos_S1D.bfloat16() + swapped_SND * sin_S1D.bfloat16()

    ours_SND = rotate(x_SND, packed.cos_S1R, packed.sin_S1R)
    assert ours_SND.dtype == torch.bfloat16
    ours, theirs = ((each.double() - exact_SND).abs().mean() for each in (ours_SND, rounded_SND))
    assert ours < 0.7 * theirs
    assert (ours_SND == exact_SND.bfloat16()).float().mean() > 0.999


def test_all_layers_of_a_pack_keep_one_table_and_nothing_of_their_own() -> None:
    packed, x_SND = segments([5, 9], 64, 1e4), drawn(14, 2, 64).requires_grad_()
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for _ in range(3):
            x_SND = rotate(x_SND, packed.cos_S1R, packed.sin_S1R)
    assert len(kept) == 6
    assert set(kept) == {packed.cos_S1R.untyped_storage().data_ptr(), packed.sin_S1R.untyped_storage().data_ptr()}
