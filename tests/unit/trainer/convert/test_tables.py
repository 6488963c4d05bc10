"""The tables name every tensor of the published checkpoints once, in both layouts."""

from collections import Counter
from math import prod

import pytest
import torch

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.convert import tables
from internvl_trainer.convert.errors import TensorShapeError
from internvl_trainer.convert.mapping import Layout

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", list(catalog.MODELS))
def test_native_names_and_shapes_are_those_of_the_catalogue(name: str) -> None:
    model = catalog.get(name)
    rows = [
        row
        for mapping in tables.mappings(model, Layout.NATIVE)
        for row in zip(mapping.names, mapping.shapes, strict=True)
    ]
    assert dict(rows) == model.state_dict_shapes()
    assert len(rows) == len(dict(rows))


@pytest.mark.parametrize("name", list(catalog.MODELS))
def test_both_layouts_hold_every_element_once(name: str) -> None:
    model = catalog.get(name)
    tensors = []
    for layout in Layout:
        mappings = list(tables.mappings(model, layout))
        tensors.append([mapping.tensor for mapping in mappings])
        names = Counter(name for mapping in mappings for name in mapping.names)
        assert max(names.values()) == 1
        for mapping in mappings:
            assert sum(map(prod, mapping.shapes)) == prod(mapping.tensor.shape), mapping
    assert tensors[0] == tensors[1], "layouts differ in names, not in what our checkpoint holds"


@pytest.mark.parametrize("component", [Component.VISION, Component.LANGUAGE])
@pytest.mark.parametrize("layout", list(Layout))
def test_a_bare_part_lacks_the_prefix_alone(component: Component, layout: Layout) -> None:
    model = catalog.get("InternVL2_5-2B")
    whole = list(tables.mappings(model, layout, (component,)))
    bare = list(tables.bare_mappings(model, component, layout))
    (prefix,) = {name.partition(".")[0] for mapping in whole for name in mapping.names}
    assert [[f"{prefix}.{name}" for name in mapping.names] for mapping in bare] == [list(each.names) for each in whole]


def test_a_tensor_of_another_shape_is_refused_by_name() -> None:
    model = catalog.get("tiny-1b-like")
    mapping = next(each for each in tables.mappings(model, Layout.NATIVE) if "up_proj" in each.names[-1])
    wrong = [torch.zeros(shape) for shape in mapping.shapes]
    wrong[1] = torch.zeros(3, 128)
    with pytest.raises(TensorShapeError, match=r"up_proj\.weight has shape \(3, 128\), .* gives it \(384, 128\)"):
        mapping.merge(wrong)
