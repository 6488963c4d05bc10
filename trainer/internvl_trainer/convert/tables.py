"""The tables of a whole model: which architecture describes which of its parts."""

from collections.abc import Collection, Iterator

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.convert import internlm2, projector, qwen2, vision
from internvl_trainer.convert.mapping import Layout, Mapping, Table

LANGUAGE_TABLES = {"qwen2.5": qwen2.table, "internlm2.5": internlm2.table}


def table(model: ModelGeometry, component: Component) -> Table:
    """What one component's tensors are called in our checkpoint and in each layout."""
    if component is Component.VISION:
        return vision.table(model.vision)
    if component is Component.PROJECTOR:
        return projector.table(model)
    return LANGUAGE_TABLES[model.language.family](model.language)


def mappings(
    model: ModelGeometry, layout: Layout, components: Collection[Component] = tuple(Component)
) -> Iterator[Mapping]:
    """Every tensor of our checkpoint, once, with the Hugging Face tensors that hold it; component by component."""
    for component in components:
        yield from table(model, component).mappings(layout)


def bare_mappings(model: ModelGeometry, component: Component, layout: Layout = Layout.NATIVE) -> Iterator[Mapping]:
    """The same for a folder that holds one component alone: a bare InternViT, Qwen2.5 or InternLM2.5."""
    return table(model, component).mappings(layout, bare=True)
