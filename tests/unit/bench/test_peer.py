"""The peer is the same network as ours."""

import pytest
import torch

from bench.contenders import freeze_all_but, transformers_model
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", catalog.MODELS)
def test_the_peer_trains_as_many_parameters_of_each_component_as_we_do(name: str) -> None:
    geometry = catalog.get(name)
    with torch.device("meta"):  # shapes without memory
        model = transformers_model(geometry, torch.bfloat16)
    for component in Component:
        freeze_all_but(model, [component])
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained == geometry.parameter_count(component)
