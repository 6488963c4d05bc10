"""Where a number first stopped being finite, on one rank and among the findings of many."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.engine.diagnosis import Fault, Kind, earliest, first_fault, global_names

pytestmark = pytest.mark.unit

NAN = float("nan")
FAULTS = st.builds(Fault, st.sampled_from(Kind), st.tuples(st.integers(0, 3), st.integers(0, 9)), st.just("x"))


class Layer(torch.nn.Module):
    """A residual layer that knows its number in the whole model, from 1 on, as megatron's do."""

    def __init__(self, layer_number: int) -> None:
        super().__init__()
        self.layer_number = layer_number
        self.inner = torch.nn.Linear(4, 4)
        self.outer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.outer(self.inner(x))


class Stage(torch.nn.Module):
    """The second of two pipeline stages, with layers 3 and 4 of four."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(3), Layer(4)])
        for weight in self.parameters():
            weight.main_grad = torch.zeros_like(weight)  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def look(model: Stage, *packs: torch.Tensor) -> Fault | None:
    numbers = [10 + number for number in range(len(packs))]
    return first_fault(model, 1, numbers, lambda: [model(pack).sum() for pack in packs])


def test_layers_are_named_by_their_number_in_the_whole_model() -> None:
    names = global_names(Stage())
    assert names["layers.0"] == "layers.2"
    assert names["layers.1.outer"] == "layers.3.outer"


def test_a_sound_stage_has_no_fault_and_keeps_no_hook() -> None:
    model = Stage()
    assert look(model, torch.ones(4)) is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_parameter_is_named_before_the_modules_that_it_spoils() -> None:
    model = Stage()
    with torch.no_grad():
        model.layers[1].outer.bias[0] = NAN
    assert look(model, torch.ones(4)) == (
        Kind.PARAMETER,
        (1, 7),
        "parameter layers.3.outer.bias holds a value that is not finite",
    )


def test_the_innermost_module_is_named_and_the_pack_that_it_failed_on() -> None:
    model = Stage()
    with torch.no_grad():
        model.layers[0].inner.weight.fill_(1e38)
    fault = look(model, torch.zeros(4), torch.full((4,), 10.0))
    assert fault is not None
    assert fault.description == "layers.2.inner is the first module whose output is not finite, in pack 11"


def test_a_residual_sum_that_overflows_is_named_as_the_layers_own() -> None:
    model = Stage()
    with torch.no_grad():
        for weight in model.layers[0].parameters():
            weight.zero_()
        model.layers[0].outer.bias.fill_(3e38)
    fault = look(model, torch.full((4,), 3e38))
    assert fault is not None
    assert fault.description == "layers.2 is the first module whose output is not finite, in pack 10"


def test_what_comes_in_spoilt_is_named_as_an_input() -> None:
    fault = look(Stage(), torch.full((4,), NAN))
    assert fault is not None
    assert fault.description == "the input of layers.2.inner is the first value that is not finite, in pack 10"


def test_under_a_finite_forward_pass_the_last_spoilt_gradient_is_the_closest_to_the_loss() -> None:
    model = Stage()
    for layer in model.layers:
        layer.inner.weight.main_grad[0] = NAN
    fault = look(model, torch.ones(4))
    assert fault is not None
    assert fault.kind is Kind.GRADIENT
    assert "layers.3.inner.weight is closest to the loss" in fault.description


def test_of_gradients_on_several_stages_the_last_stages_is_the_closest_to_the_loss() -> None:
    first, second = Fault(Kind.GRADIENT, (0, 0), "first stage"), Fault(Kind.GRADIENT, (-1, 3), "second stage")
    assert earliest([first, second]) == second


@given(faults=st.lists(st.none() | FAULTS))
def test_causes_come_before_effects_and_all_ranks_pick_the_same(faults: list[Fault | None]) -> None:
    found = earliest(faults)
    real = [fault for fault in faults if fault]
    assert (found is None) == (not real)
    if found:
        assert all((found.kind, found.order) <= (fault.kind, fault.order) for fault in real)
