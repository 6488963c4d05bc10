"""Every attention back-end that can run here against the reference, and a segment that never sees another.

Shapes: T tokens, N query heads, K key-value heads, D head dim. On a machine with CUDA the same tests take in the
half-precision kernels that are installed there.
"""

import math
from typing import Any, NamedTuple, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType

from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.model.attention.backends import KERNELS
from internvl_trainer.model.attention.core import Kernel, SegmentAttention
from internvl_trainer.model.attention.loading import installed
from internvl_trainer.model.attention.reference import Reference
from internvl_trainer.model.attention.selection import AttentionUnavailableError, Backend, choose
from internvl_trainer.model.config import model_configs

pytestmark = pytest.mark.unit

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}
"""Relative to the largest value; halves keep 8 and 11 bits and the kernels round in between."""
SMALL = 0.1
"""Below this, errors are absolute: a segment of one token has a dq that is nothing but rounding."""

LENGTHS = {
    "one token each": [1] * 9,
    "one full-length segment": [257],
    "300 segments": [1 + number % 3 for number in range(300)],
    "mixed": [1, 64, 2, 130, 1, 33],
}


class Case(NamedTuple):
    backend: Backend
    device: str
    dtype: torch.dtype


def runnable() -> list[Case]:
    """What of all back-ends, devices and dtypes this machine can run."""
    cases, here = [], installed()
    devices: list[tuple[str, tuple[int, int] | None]] = [("cpu", None)]
    if torch.cuda.is_available():
        devices.append(("cuda", torch.cuda.get_device_capability()))
    for device, capability in devices:
        for dtype in TOLERANCE if device == "cuda" else (torch.float32, torch.bfloat16):
            for backend in KERNELS:
                try:
                    choose(backend, here, device_type=device, capability=capability, dtype=dtype, head_dim=128)
                except AttentionUnavailableError:
                    continue
                cases.append(Case(backend, device, dtype))
    return cases


CASES = [case for case in runnable() if case.backend != "reference"]


def packed(lengths: list[int], device: str = "cpu") -> PackedSeqParams:
    bounds = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    longest = max(lengths)
    return PackedSeqParams("thd", bounds, bounds, max_seqlen_q=longest, max_seqlen_kv=longest)


def drawn(tokens: int, heads: int, kv_heads: int, width: int, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, count, width, generator=draw) for count in (heads, kv_heads, kv_heads)]


def outputs(run: Any, inputs: list[torch.Tensor], case: Case) -> list[torch.Tensor]:
    """The output, and the gradients of q, k and v under a fixed loss, in float32 on the CPU."""
    leaves = [each.to(case.device, case.dtype).requires_grad_() for each in inputs]
    out = run(*leaves)
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(case.device, case.dtype)
    (out * weights).sum().backward()
    return [each.detach().float().cpu() for each in (out, *(leaf.grad for leaf in leaves))]


def assert_same(seen: list[torch.Tensor], expected: list[torch.Tensor], case: Case) -> None:
    for name, mine, theirs in zip(("output", "dq", "dk", "dv"), seen, expected, strict=True):
        error = ((mine - theirs).abs().max() / theirs.abs().max().clamp_min(SMALL)).item()
        assert error < TOLERANCE[case.dtype], f"{name} of {case} is off by {error}"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1), (14, 2)])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("causal", [True, False])
def test_packs_come_out_as_from_the_reference(
    case: Case, lengths: list[int], heads: int, kv_heads: int, width: int, causal: bool
) -> None:
    inputs = drawn(sum(lengths), heads, kv_heads, width)
    segments = packed(lengths, case.device)
    options: dict[str, Any] = {"causal": causal, "scale": 1 / math.sqrt(width)}
    kernel: Kernel = KERNELS[case.backend]()
    seen = outputs(lambda q, k, v: kernel.packed(q, k, v, segments, **options), inputs, case)
    expected = outputs(lambda q, k, v: Reference().packed(q, k, v, segments, **options), inputs, case)
    assert_same(seen, expected, case)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_batches_come_out_as_from_the_reference(case: Case, causal: bool) -> None:
    inputs = [each.unflatten(0, (3, 65)) for each in drawn(3 * 65, 4, 2, 64)]
    options: dict[str, Any] = {"causal": causal, "scale": 0.125}
    kernel: Kernel = KERNELS[case.backend]()
    seen = outputs(lambda q, k, v: kernel.dense(q, k, v, **options), inputs, case)
    expected = outputs(lambda q, k, v: Reference().dense(q, k, v, **options), inputs, case)
    assert_same(seen, expected, case)


def test_the_reference_is_the_textbooks_formula_segment_by_segment() -> None:
    lengths, heads, width = [3, 1, 5], 4, 8
    q_TND, k_TKD, v_TKD = drawn(sum(lengths), heads, 2, width)
    out_TND = Reference().packed(q_TND, k_TKD, v_TKD, packed(lengths), causal=True, scale=0.5)
    begin = 0
    for length in lengths:
        for token in range(begin, begin + length):
            for head in range(heads):
                keys, values = (x[begin : token + 1, head // 2] for x in (k_TKD, v_TKD))
                weights = torch.exp(0.5 * keys @ q_TND[token, head])
                expected = (weights[:, None] * values).sum(0) / weights.sum()
                torch.testing.assert_close(out_TND[token, head], expected)
        begin += length


@settings(deadline=None, max_examples=40)
@given(
    case=st.sampled_from(runnable()),
    lengths=st.lists(st.integers(1, 24), min_size=2, max_size=6),
    causal=st.booleans(),
    data=st.data(),
)
def test_changing_one_segment_changes_no_bit_of_another(
    case: Case, lengths: list[int], causal: bool, data: st.DataObject
) -> None:
    changed = data.draw(st.integers(0, len(lengths) - 1))
    before, after = (drawn(sum(lengths), 4, 2, 64, seed) for seed in (1, 2))
    begin = sum(lengths[:changed])
    inside = torch.zeros(sum(lengths), dtype=torch.bool)
    inside[begin : begin + lengths[changed]] = True
    mixed = [torch.where(inside[:, None, None], new, old) for old, new in zip(before, after, strict=True)]
    kernel, segments = KERNELS[case.backend](), packed(lengths, case.device)
    first, second = (
        kernel.packed(*(x.to(case.device, case.dtype) for x in qkv), segments, causal=causal, scale=0.125).cpu()
        for qkv in (before, mixed)
    )
    assert torch.equal(first[~inside], second[~inside])
    assert not torch.equal(first[inside], second[inside])


@pytest.mark.parametrize("backend", sorted({case.backend for case in runnable()}))
def test_a_layer_gets_the_same_from_one_segment_as_from_a_batch_of_one(backend: Backend) -> None:
    config = model_configs(MODELS["tiny-8b-like"], ParallelLayout()).language
    attention = SegmentAttention(config, 1, AttnMaskType.causal, "self", kernel=KERNELS[backend]())
    q_TND, k_TKD, v_TKD = drawn(17, config.num_attention_heads, 2, config.kv_channels)
    from_pack = attention(q_TND, k_TKD, v_TKD, None, packed_seq_params=packed([17]))
    from_batch = attention(*(x.unsqueeze(1) for x in (q_TND, k_TKD, v_TKD)), None)
    assert from_pack.shape == (17, config.num_attention_heads * config.kv_channels)
    torch.testing.assert_close(from_pack, from_batch.squeeze(1))


def test_a_mask_of_ones_own_is_refused() -> None:
    config = model_configs(MODELS["tiny-8b-like"], ParallelLayout()).language
    attention = SegmentAttention(config, 1, AttnMaskType.causal, "self", kernel=Reference())
    inputs = [x.unsqueeze(1) for x in drawn(3, 6, 2, 32)]
    with pytest.raises(ValueError, match="pass no attention mask"):
        attention(*inputs, torch.ones(3, 3))


def test_every_name_that_a_job_can_give_is_a_back_end() -> None:
    assert set(get_args(Backend)) == {*KERNELS, "transformer-engine"}
