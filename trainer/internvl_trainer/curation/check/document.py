"""What a check has found, as a document."""

import json
from typing import Any

from pydantic import Field

from internvl_trainer.curation.document import Document
from internvl_trainer.curation.estimate import Fill


class Fault(Document):
    """One sample with a fault; also a line of the file of bad samples."""

    source: str
    file: str
    line: int
    id: Any = Field(description="as the line gives it; None where it has none, or is no JSON")
    reason: str
    detail: str

    def to_line(self) -> bytes:
        """As a line of a file of bad samples, with its newline."""
        return json.dumps(self.model_dump(), ensure_ascii=False).encode(errors="replace") + b"\n"


class CheckedSource(Document):
    """What was found in one data set."""

    name: str
    annotation: str
    samples: int = Field(description="lines that are not blank")
    bad: dict[str, int] = Field(description="samples that cannot be trained on, by reason")
    warnings: dict[str, int] = Field(description="what is suspicious about samples that can, by kind")
    kinds: dict[str, int] = Field(description="good samples by kind")
    tokens: int = Field(description="of the good samples")
    tiles: int
    within_budget: bool

    @property
    def bad_samples(self) -> int:
        """Of any reason."""
        return sum(self.bad.values())

    @property
    def bad_share(self) -> float:
        """Of its samples."""
        return self.bad_samples / self.samples if self.samples else 0.0


class CheckReport(Document):
    """`internvl data check --output json`."""

    format: str = "internvl-data-check/v1"
    data: str
    model: str
    complete: bool = Field(description="false where the check was interrupted: then it speaks of what it has read")
    pixels: bool = Field(description="whether images and videos were decoded, or only what the text says was checked")
    max_bad_fraction: float
    problems: list[str] = Field(description="why a stage would not begin with this data; empty: it would")
    sources: list[CheckedSource]
    first_bad: list[Fault] = Field(description="the first of each reason")
    first_warnings: list[Fault]
    bad_file: str | None
    tiles_decoded: int
    seconds: float
    workers: int
    estimate: Fill | None = Field(description="None where not everything was read")

    @property
    def samples(self) -> int:
        """Of all data sets."""
        return sum(source.samples for source in self.sources)

    @property
    def bad_samples(self) -> int:
        """Of all data sets."""
        return sum(source.bad_samples for source in self.sources)
