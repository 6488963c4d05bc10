"""Packing: which samples share a sequence, and which rank trains on which pack. Pure functions of lengths."""

from internvl_trainer.data.packing.balance import arrange
from internvl_trainer.data.packing.best import form_packs
from internvl_trainer.data.packing.cost import PackCost
from internvl_trainer.data.packing.limits import PackLimits
from internvl_trainer.data.packing.reference import ReferencePack, reference_greedy

__all__ = [
    "PackCost",
    "PackLimits",
    "ReferencePack",
    "arrange",
    "form_packs",
    "reference_greedy",
]
