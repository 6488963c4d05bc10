"""Loading an optional package of kernels, and which of them are installed."""

import importlib
import importlib.util
from types import ModuleType

from internvl_trainer.model.attention.selection import AttentionUnavailableError, Backend

_MODULE: dict[Backend, str] = {
    "transformer-engine": "transformer_engine",
    "flash-attention-3": "flash_attn_interface",
    # Not `flash_attn`: a folder of that name is also part of the package flash-attn-4.
    "flash-attention-2": "flash_attn_2_cuda",
}
"""By which module one sees that a package of kernels is installed."""


def installed() -> frozenset[Backend]:
    """The back-ends whose packages are here; nothing is imported."""
    optional: list[Backend] = [name for name, module in _MODULE.items() if importlib.util.find_spec(module)]
    return frozenset([*optional, "torch", "reference"])


def load(backend: Backend, module: str) -> ModuleType:
    """Import a package of kernels.

    Raises:
        AttentionUnavailableError: it is installed and cannot be imported, as when it was built for another torch.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AttentionUnavailableError(
            backend, f"{module} cannot be imported: {error}; was it built for this torch?"
        ) from error
