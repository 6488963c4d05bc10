"""The report as a document: its JSON is the documents', tables and pictures are drawn from it."""

from pydantic import Field

from internvl_trainer.curation.document import Document
from internvl_trainer.curation.estimate import Fill

KINDS = ("text", "single image", "multi image", "video")
"""The kinds of samples as people call them, in the order of records.Kind."""

PUBLISHED_TOKEN_SHARES = {"text": 0.0492, "single image": 0.4592, "multi image": 0.0937, "video": 0.3979}
"""What the tokens of stage 2's mixture are, says the InternVL-2.5 report."""


class Amount(Document):
    """How much there is of something; in fractions where it is the average of epochs."""

    samples: float
    tokens: float
    tiles: float

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            samples=self.samples + other.samples, tokens=self.tokens + other.tokens, tiles=self.tiles + other.tiles
        )

    def share(self, whole: "Amount") -> "Amount":
        """What part of `whole` it is, each between 0 and 1; 0 of nothing."""
        pairs = ((getattr(self, name), getattr(whole, name)) for name in AMOUNTS)
        return Amount(**dict(zip(AMOUNTS, (part / total if total else 0.0 for part, total in pairs), strict=True)))


AMOUNTS = ("samples", "tokens", "tiles")


class Part(Document):
    """A data set, or a kind of samples: as it lies there, and as an epoch draws it."""

    raw: Amount
    epoch: Amount
    raw_share: Amount
    epoch_share: Amount


class SourcePart(Part):
    """A data set of the mixture."""

    name: str
    n_max: int = Field(description="most tiles of a sample's images")
    repeat: float = Field(description="r: passes in one epoch")
    augment: bool
    rows: int = Field(description="samples, bad ones included")
    bad: dict[str, int] = Field(description="how many samples are bad, by reason")
    kinds: dict[str, int] = Field(description="good samples by kind")
    mean_tokens: float
    mean_tiles: float


class Histogram(Document):
    """How many samples of an epoch lie in each bin, by kind. Bin i holds edges[i] <= value < edges[i + 1]."""

    edges: list[int]
    counts: dict[str, list[float]]
    mean: float
    median: int
    p95: int
    largest: int

    @property
    def totals(self) -> list[float]:
        """All kinds together."""
        return [sum(each) for each in zip(*self.counts.values(), strict=True)]


class MixtureReport(Document):
    """`internvl data report --output json`."""

    format: str = "internvl-data-report/v1"
    data: str
    model: str
    pack_tokens: int
    pack_tiles: int
    total: Part
    sources: list[SourcePart]
    kinds: dict[str, Part]
    published_token_shares: dict[str, float] = PUBLISHED_TOKEN_SHARES
    lengths: Histogram
    tiles: Histogram
    fill: Fill
