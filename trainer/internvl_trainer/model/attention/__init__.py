"""Attention over the segments of a pack and inside a tile, by the fastest implementation that is there.

One file per back-end, all behind `Kernel` (core.py); selection.py chooses among them, layers get the choice through
their ModuleSpec (`language_attention`, `vision_attention`).
"""

from internvl_trainer.model.attention.backends import TORCH, Backends, language_attention, select, vision_attention

__all__ = ["TORCH", "Backends", "language_attention", "select", "vision_attention"]
