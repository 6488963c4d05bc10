"""The progress report that the trainer sends to the operator every few seconds."""

from datetime import datetime

from pydantic import Field

from internvl_trainer.contract.base import Contract
from internvl_trainer.contract.manifest import ManifestRef

TOKEN_AUDIENCE = "internvl-operator"
"""Audience of the projected service account token that a report carries; the operator checks it by TokenReview."""

REPORT_PATH = "/v1/progress"
"""Where on the operator's progress endpoint a report is POSTed to, as JSON, with `Authorization: Bearer <token>`."""


class CheckpointProgress(Contract):
    """The newest checkpoint that this attempt committed."""

    step: int
    manifest: ManifestRef


class ProgressReport(Contract):
    """How far one attempt of one stage has come. Rates are of the whole job over the last report interval."""

    run_uid: str
    stage: str
    attempt: int = Field(ge=1)
    step: int = Field(ge=0, description="finished optimizer steps of the stage")
    total_steps: int = Field(ge=1, description="expected; an estimate where tokens end the stage before its steps do")
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    tiles_per_second: float | None = None
    padding: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the packs' capacity (pack_tokens each) that no token fills; nothing is computed for it",
    )
    skipped_samples: int = Field(
        default=0, ge=0, description="samples left out since the stage began because they could not be read"
    )
    eta_seconds: float | None = Field(default=None, ge=0)
    checkpoint: CheckpointProgress | None = None
    reported_at: datetime
