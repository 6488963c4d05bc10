"""What a user writes about data: a meta JSON or the data sets themselves, and how samples become packs."""

from typing import Annotated, Literal

from pydantic import Field

from internvl_operator.api.base import ApiModel, keyed_by

MAX_SOURCES = 256
"""Data sets of a mixture; the published ones have about 100."""

Location = Annotated[str, Field(min_length=1, max_length=1024)]
"""Where data lies: s3://..., file://..., or a path that is mounted into the pods."""

Repeat = Annotated[str, Field(pattern=r"^(0\.[0-9]*[1-9][0-9]*|[1-9][0-9]?(\.[0-9]+)?|100(\.0+)?)$", max_length=24)]
"""A decimal above 0 and up to 100. A pattern says so where a CEL rule would be paid for by each of many sources."""

Share = Annotated[str, Field(pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$", max_length=24)]
"""A decimal from 0 to 1."""

FrameSampling = Annotated[
    str, Field(pattern=r"^(rand|middle|fps(0\.[0-9]*[1-9][0-9]*|[1-9][0-9]*(\.[0-9]+)?))$", max_length=16)
]


class SourceSpec(ApiModel):
    """One data set of a mixture."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    annotation: Location = Field(description="URI of the JSONL file")
    root: Location | None = Field(default=None, description="URI of the media's folder; absent: the annotation's own")
    max_tiles: int | None = Field(
        default=None, ge=1, le=512, description="tiles per image at most (n_max), in place of the stage's maxTiles"
    )
    repeat: Repeat = Field(
        default="1",
        description="passes over the data set in one epoch (r), fractions included; above 0, up to 100. The published "
        "recipe stays within 4",
    )
    augment: bool = Field(default=False, description="one JPEG pass per tile, at a random quality of 75..100")


class DataSpec(ApiModel):
    """What to train on. As spec.data these are defaults for all stages; a stage's own fields win one by one.

    The data sets are named by `meta` or by `mixture`: a stage that gives one of the two does not inherit the other.
    """

    meta: Location | None = Field(default=None, description="URI of InternVL's meta JSON")
    mixture: (
        Annotated[
            tuple[SourceSpec, ...],
            Field(min_length=1, max_length=MAX_SOURCES, json_schema_extra=keyed_by("name")),
        ]
        | None
    ) = Field(default=None, description="the data sets themselves, in place of meta")
    tokenizer: Location | None = Field(default=None, description="URI of a folder with tokenizer.json")
    template: Literal["internvl2_5", "internlm2-chat", "Hermes-2"] | None = Field(
        default=None, description="how a conversation becomes text; default internvl2_5"
    )
    max_tiles: int | None = Field(default=None, ge=1, le=512, description="tiles per image at most; default 12")
    thumbnail: bool | None = Field(default=None, description="whether tiled images get a thumbnail; default true")
    min_frames: int | None = Field(default=None, ge=1, le=4096, description="frames of a video at least; default 8")
    max_frames: int | None = Field(default=None, ge=1, le=4096, description="frames of a video at most; default 32")
    frame_sampling: FrameSampling | None = Field(
        default=None,
        description="which frames of a video: one of each equal part, at random (rand) or its middle (middle), or so "
        "many a second (fps2, fps0.5); default rand",
    )
    repeat_mode: Literal["exact", "reference"] | None = Field(
        default=None,
        description="what a fraction of repeat means: a seeded part of the data set, another one each epoch (exact), "
        "or its first lines, as in the released trainer (reference); default exact",
    )
    max_bad_fraction: Share | None = Field(
        default=None, description="share of the samples that may be unusable before the run ends; default 0.01"
    )
    workers: int | None = Field(
        default=None, ge=0, le=256,
        description="processes that load packs, for each training process that needs tiles; 0: a thread of it; absent: "
        "what the pod's CPUs allow",
    )  # fmt: skip
    pack_tokens: int | None = Field(default=None, ge=1, le=1048576, description="tokens per pack; default 16384")
    pack_tiles: int | None = Field(default=None, ge=1, le=4096, description="tiles per pack; default 48")
    seed: int | None = Field(default=None, ge=0, le=2147483647, description="of the order of samples; default 42")
