"""The MLP projector: how its tensors are called in each layout."""

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.tensors import prefix_of
from internvl_trainer.convert.mapping import Row, Table
from internvl_trainer.convert.transforms import Same


def table(model: ModelGeometry) -> Table:
    """All tensors of the projector between this model's vision encoder and language model."""
    width, hidden = model.projector_input, model.language.hidden
    rows = (
        Row("norm.weight", (width,), Same("0.weight"), Same("layer_norm.weight")),
        Row("norm.bias", (width,), Same("0.bias"), Same("layer_norm.bias")),
        Row("linear_in.weight", (hidden, width), Same("1.weight"), Same("linear_1.weight")),
        Row("linear_in.bias", (hidden,), Same("1.bias"), Same("linear_1.bias")),
        Row("linear_out.weight", (hidden, hidden), Same("3.weight"), Same("linear_2.weight")),
        Row("linear_out.bias", (hidden,), Same("3.bias"), Same("linear_2.bias")),
    )
    return Table(prefix_of(Component.PROJECTOR), "mlp1.", "multi_modal_projector.", rows)
