"""The peer is the same network as ours."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from bench.contenders import freeze_all_but
from bench.transformers_config import transformers_config
from bench.workload import IMAGE_TOKEN
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.parameters import rank_parameters

pytestmark = pytest.mark.unit


def peer(name: str) -> torch.nn.Module:
    """Without memory for its weights."""
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            transformers_config(catalog.get(name), IMAGE_TOKEN)
        )
    return model


@pytest.mark.parametrize("name", catalog.MODELS)
def test_the_peer_has_as_many_parameters_as_we_count_in_each_component(name: str) -> None:
    geometry, model = catalog.get(name), peer(name)
    rank = rank_parameters(geometry)
    counted = {
        Component.VISION: rank.vision,
        Component.PROJECTOR: rank.projector,
        Component.LANGUAGE: rank.embedding + geometry.language.layers * rank.layer + rank.head,
    }
    for component, count in counted.items():
        freeze_all_but(model, [component])
        assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == count
