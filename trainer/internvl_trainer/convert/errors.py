"""What can go wrong between a Hugging Face folder and a checkpoint. Each error takes one message."""

from typing import ClassVar

from internvl_trainer.contract.exit_codes import ExitCode


class ConversionError(Exception):
    """Base of all faults of a conversion."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CONFIG


class TensorShapeError(ConversionError):
    """A tensor has another shape than the model's geometry gives it."""


class FolderError(ConversionError):
    """A folder is no readable Hugging Face checkpoint: a file is missing, damaged, or of a kind that is not read."""


class MissingTensorError(ConversionError):
    """A folder lacks tensors that the model has, or holds tensors that it does not have."""


class UnsupportedModelError(ConversionError):
    """A configuration asks for something that this model does not compute."""
