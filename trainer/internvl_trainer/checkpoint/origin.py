"""Where a stage's components came from: parents and the vision encoder's lineage. Pure."""

from typing import NamedTuple

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import LineageEntry, Manifest, ManifestRef


class Origin(NamedTuple):
    """What every checkpoint of a stage says about the stage's start."""

    parents: dict[Component, ManifestRef]
    vision_lineage: tuple[LineageEntry, ...]
    resumed_from: ManifestRef | None = None
    """The stage's checkpoint that this attempt went on from."""


def lineage_with(ref: ManifestRef, manifest: Manifest) -> tuple[LineageEntry, ...]:
    """The vision encoder's whole history for whoever starts from this checkpoint, oldest first.

    A checkpoint's own `vision_lineage` ends before its stage. The checkpoint itself is added where its stage trained
    the vision encoder, or where it was imported; a stage that kept it frozen leaves no trace.
    """
    if Component.VISION not in manifest.trainable and Component.VISION not in manifest.imported:
        return manifest.vision_lineage
    # A copy is not another training: the link names the checkpoint that was trained.
    trained = manifest.copied_from or ref
    entry = LineageEntry(run=manifest.run, stage=manifest.stage, step=manifest.step, manifest=trained)
    return (*manifest.vision_lineage, entry)
