"""How far a stage has read its data: a few integers that a checkpoint keeps and any number of ranks resumes from."""

from pydantic import Field

from internvl_trainer.contract.base import Contract


class DataPosition(Contract):
    """A place between two packs of the global order, and what has been read up to it.

    Epoch, window and `taken` say where the next pack is found; the other fields only count. A position means something
    together with the data configuration it came from: the same sources, limits, repeats and seed.
    """

    packs: int = Field(default=0, ge=0, strict=True, description="packs consumed since the stage began")
    epoch: int = Field(default=0, ge=0, strict=True, description="of the next pack, counted from 0")
    window: int = Field(default=0, ge=0, strict=True, description="of the next pack, inside its epoch")
    taken: int = Field(default=0, ge=0, strict=True, description="packs of that window that have been consumed")
    samples: int = Field(default=0, ge=0, strict=True, description="samples of the packs consumed")
    skipped: int = Field(
        default=0, ge=0, strict=True, description="of these, left out since they turned out bad when they were loaded"
    )
