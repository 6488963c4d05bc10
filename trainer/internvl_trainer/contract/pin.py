"""A pin: an object beside a manifest that keeps the checkpoint from being removed."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from internvl_trainer.contract.seal import Sealed

MOST_CHARACTERS = 1000
"""Of a reason."""


class Pin(Sealed):
    """Why a checkpoint is kept, for people. What keeps it is that the object is there, whatever its bytes are."""

    format: Literal["internvl-pin/v1"] = "internvl-pin/v1"
    reason: str = Field(default="", max_length=MOST_CHARACTERS)
    created_at: datetime
