"""Which attention runs follows from what is installed, the device, the dtype and the width of a head."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.model.attention.backends import Backends, choose_both, select
from internvl_trainer.model.attention.loading import installed, load
from internvl_trainer.model.attention.selection import AttentionUnavailableError, choose

pytestmark = pytest.mark.unit

EVERYTHING = frozenset({"transformer-engine", "flash-attention-3", "flash-attention-2", "torch", "reference"})
TORCH_ALONE = frozenset({"torch", "reference"})
HOPPER, AMPERE, TURING, BLACKWELL = (9, 0), (8, 0), (7, 5), (10, 0)
ALL_NAMES = ["auto", *sorted(EVERYTHING)]


def on(capability: tuple[int, int] | None, **changes: Any) -> dict[str, Any]:
    device = "cuda" if capability else "cpu"
    return {"device_type": device, "capability": capability, "dtype": torch.bfloat16, "head_dim": 128} | changes


def test_the_fastest_that_is_installed_is_taken() -> None:
    left = set(EVERYTHING)
    for name in ("transformer-engine", "flash-attention-3", "flash-attention-2", "torch"):
        assert choose("auto", left, **on(HOPPER)) == name
        left.discard(name)


@pytest.mark.parametrize("capability", [AMPERE, BLACKWELL])
def test_flash_attention_3_is_for_hopper_alone(capability: tuple[int, int]) -> None:
    assert choose("auto", EVERYTHING - {"transformer-engine"}, **on(capability)) == "flash-attention-2"


@pytest.mark.parametrize(
    "where",
    [on(None), on(HOPPER, dtype=torch.float32), on(HOPPER, head_dim=320), on(HOPPER, head_dim=36), on(TURING)],
    ids=["cpu", "float32", "wide heads", "odd heads", "old gpu"],
)
def test_what_flash_kernels_do_not_take_goes_to_torch(where: dict[str, Any]) -> None:
    assert choose("auto", EVERYTHING, **where) == "torch"


@pytest.mark.parametrize(
    ("wanted", "available", "where", "words"),
    [
        ("flash-attention-2", TORCH_ALONE, on(HOPPER), "install flash-attn 2.8"),
        ("flash-attention-3", TORCH_ALONE, on(HOPPER), "install flash_attn_3"),
        ("transformer-engine", TORCH_ALONE, on(HOPPER), "install transformer-engine"),
        ("flash-attention-3", EVERYTHING, on(AMPERE), "the GPU has 8.0"),
        ("flash-attention-2", EVERYTHING, on(TURING), "the GPU has 7.5"),
        ("flash-attention-2", EVERYTHING, on(None), "the device is cpu"),
        ("transformer-engine", EVERYTHING, on(HOPPER, dtype=torch.float32), "the model is in float32"),
        ("flash-attention-2", EVERYTHING, on(HOPPER, head_dim=320), "the model's are 320 wide"),
    ],
)
def test_asking_for_what_cannot_run_says_what_is_missing(
    wanted: Any, available: frozenset[Any], where: dict[str, Any], words: str
) -> None:
    with pytest.raises(AttentionUnavailableError, match="set attention: auto") as refused:
        choose(wanted, available, **where)
    assert repr(wanted) in str(refused.value)
    assert words in str(refused.value)
    assert refused.value.exit_code is ExitCode.INVALID_CONFIG


@given(
    wanted=st.sampled_from(ALL_NAMES),
    optional=st.sets(st.sampled_from(sorted(EVERYTHING - TORCH_ALONE))),
    capability=st.sampled_from([None, TURING, AMPERE, HOPPER, BLACKWELL]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    head_dim=st.integers(1, 512),
)
def test_a_wish_is_granted_or_refused_and_never_replaced(
    wanted: Any, optional: set[Any], capability: tuple[int, int] | None, dtype: torch.dtype, head_dim: int
) -> None:
    available, where = TORCH_ALONE | optional, on(capability, dtype=dtype, head_dim=head_dim)
    if wanted == "auto":
        chosen = choose("auto", available, **where)
        assert chosen in available - {"reference"}
        assert choose(chosen, available, **where) == chosen
        return
    try:
        assert choose(wanted, available, **where) == wanted
    except AttentionUnavailableError:
        assert wanted not in TORCH_ALONE


def test_without_cuda_a_model_gets_torch_and_can_be_given_the_reference() -> None:
    geometry, cpu = MODELS["InternVL2_5-1B"], torch.device("cpu")
    assert select("auto", geometry, cpu, torch.float32) == Backends("torch", "torch")
    assert select("reference", geometry, cpu, torch.float32) == Backends("reference", "reference")
    assert str(Backends("transformer-engine", "torch")) == "transformer-engine over packs, torch inside tiles"


def test_tiles_never_go_through_transformer_engine() -> None:
    geometry = MODELS["InternVL2_5-1B"]
    where = {"device_type": "cuda", "capability": HOPPER, "dtype": torch.bfloat16}
    assert choose_both("auto", geometry, EVERYTHING, **where) == ("transformer-engine", "flash-attention-3")
    assert choose_both("transformer-engine", geometry, EVERYTHING, **where) == ("transformer-engine", "torch")
    odd = geometry.model_copy(update={"language": geometry.language.model_copy(update={"head_dim": 36})})
    alone = TORCH_ALONE | {"transformer-engine"}
    assert choose_both("auto", odd, alone, **where) == ("torch", "torch")


def test_torch_and_the_reference_are_always_installed() -> None:
    assert installed() >= TORCH_ALONE


def test_a_package_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(AttentionUnavailableError, match="a_package_that_nobody_has cannot be imported"):
        load("flash-attention-2", "a_package_that_nobody_has")
