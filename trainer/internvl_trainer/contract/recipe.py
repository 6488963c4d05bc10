"""How the released models were trained: the stages of each size, as frozen data.

Sources: the InternVL-2.5 report (arXiv 2412.05271, sections 3.2 to 3.4 and table 3), and the released launch scripts,
which agree with it.
"""

import math
from typing import Literal

from pydantic import Field

from internvl_trainer.contract.base import Component, Contract
from internvl_trainer.contract.job import OptimizationConfig

WARM_UP, VISION, TUNING = "stage1", "stage1.5", "stage2"
UNBOUNDED = 100_000
"""Length of the schedule in stages that end with their data, long before it: their learning rate hardly falls."""

BILLION = 10**9
ALL = (Component.VISION, Component.PROJECTOR, Component.LANGUAGE)


class UnknownRecipeError(KeyError):
    """No recipe was published for this model, or it has no such stage."""

    def __str__(self) -> str:
        return str(self.args[0])


class StageRecipe(Contract):
    """One stage of one size. A global batch counts packs."""

    name: str
    trainable: tuple[Component, ...]
    global_batch: int
    accumulation: int = Field(default=1, description="micro-steps per optimizer step; each had a loss denominator")
    peak_lr: float
    weight_decay: float
    drop_path: float = Field(description="of the vision encoder: rate of its last layer")
    warmup_steps: int | None = None
    warmup_ratio: float | None = Field(default=None, description="of the schedule, where no number of steps is given")
    schedule_steps: int = Field(description="length of the cosine")
    reported_tokens: int = Field(description="nominal capacity of the packs that were trained on")
    epochs: int | None = Field(default=None, description="where the schedule was made to last that long")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_grad_norm: float = 1.0
    decay_scope: Literal["all", "matrices"] = "all"
    loss_reweighting: Literal["token", "sample", "square"] = "square"
    loss_denominator: Literal["global-batch", "micro-step"] = "micro-step"

    @property
    def stop_after_tokens(self) -> int | None:
        """Where the stage ended before its schedule did; None: both end together."""
        return self.reported_tokens if self.epochs is None else None

    @property
    def warmup(self) -> int:
        """Steps of warm-up; a share of the schedule is rounded up."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return math.ceil(self.schedule_steps * (self.warmup_ratio or 0.0))

    def optimization(self) -> OptimizationConfig:
        """The stage's settings for the engine, with the reference's way of dividing the loss."""
        return OptimizationConfig(
            steps=self.schedule_steps,
            stop_after_tokens=self.stop_after_tokens,
            warmup_steps=self.warmup,
            peak_lr=self.peak_lr,
            weight_decay=self.weight_decay,
            decay_scope=self.decay_scope,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            clip_grad_norm=self.clip_grad_norm,
            global_batch=self.global_batch,
            loss_reweighting=self.loss_reweighting,
            loss_denominator=self.loss_denominator,
            drop_path=self.drop_path,
        )


class Published(Contract):
    """A vision encoder that exists as a Hugging Face repository."""

    kind: Literal["published"] = "published"
    repository: str


class Trained(Contract):
    """A vision encoder that a stage of another size trains, and its published outcome."""

    kind: Literal["trained"] = "trained"
    model: str
    stage: str
    outcome: Published


class Recipe(Contract):
    """One size: where its vision encoder comes from, and its stages in order; the projector starts at random."""

    vision_from: Published | Trained = Field(discriminator="kind")
    stages: tuple[StageRecipe, ...]
    pack_tokens: int = 16384
    pack_tiles: int = 48
    max_tiles: int = Field(default=12, description="of one picture, without its thumbnail")
    min_frames: int = Field(default=8, description="of a video")
    max_frames: int = 32

    def stage(self, name: str) -> StageRecipe:
        """A stage by its name: stage1, stage1.5 or stage2.

        Raises:
            UnknownRecipeError: names the stages that there are.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UnknownRecipeError(
            f"the recipe has no stage {name!r}; its stages: {', '.join(stage.name for stage in self.stages)}"
        )


SMALL_VIT = Published(repository="OpenGVLab/InternViT-300M-448px")
SMALL_VIT_V2_5 = Published(repository="OpenGVLab/InternViT-300M-448px-V2_5")
LARGE_VIT = Published(repository="OpenGVLab/InternViT-6B-448px-V1-5")
LARGE_VIT_V2_5 = Published(repository="OpenGVLab/InternViT-6B-448px-V2_5")
FROM_8B = Trained(model="InternVL2_5-8B", stage=VISION, outcome=SMALL_VIT_V2_5)
FROM_26B = Trained(model="InternVL2_5-26B", stage=VISION, outcome=LARGE_VIT_V2_5)


def _warm_up(billions: int, weight_decay: float) -> StageRecipe:
    return StageRecipe(
        name=WARM_UP, trainable=(Component.PROJECTOR,), global_batch=512, peak_lr=2e-4, weight_decay=weight_decay,
        drop_path=0.0, warmup_steps=100, schedule_steps=UNBOUNDED, reported_tokens=billions * BILLION,
    )  # fmt: skip


def _vision(billions: int, drop_path: float) -> StageRecipe:
    return StageRecipe(
        name=VISION, trainable=(Component.VISION, Component.PROJECTOR), global_batch=1024, accumulation=2,
        peak_lr=1e-5, weight_decay=0.05, drop_path=drop_path, warmup_steps=100, schedule_steps=UNBOUNDED,
        reported_tokens=billions * BILLION,
    )  # fmt: skip


def _tuning(epochs: int, peak_lr: float, weight_decay: float, drop_path: float) -> StageRecipe:
    return StageRecipe(
        name=TUNING, trainable=ALL, global_batch=512, peak_lr=peak_lr, weight_decay=weight_decay, drop_path=drop_path,
        warmup_ratio=0.03, schedule_steps=5500 * epochs, reported_tokens=44 * BILLION * epochs, epochs=epochs,
    )  # fmt: skip


RECIPES: dict[str, Recipe] = {
    "InternVL2_5-1B": Recipe(vision_from=FROM_8B, stages=(_warm_up(191, 0.01), _tuning(4, 4e-5, 0.01, 0.1))),
    "InternVL2_5-2B": Recipe(vision_from=FROM_8B, stages=(_warm_up(277, 0.01), _tuning(4, 4e-5, 0.01, 0.1))),
    "InternVL2_5-4B": Recipe(vision_from=FROM_8B, stages=(_warm_up(164, 0.01), _tuning(2, 4e-5, 0.01, 0.1))),
    "InternVL2_5-8B": Recipe(
        vision_from=SMALL_VIT, stages=(_warm_up(22, 0.05), _vision(76, 0.1), _tuning(1, 4e-5, 0.05, 0.1))
    ),
    "InternVL2_5-26B": Recipe(
        vision_from=LARGE_VIT, stages=(_warm_up(31, 0.05), _vision(146, 0.4), _tuning(1, 2e-5, 0.05, 0.4))
    ),
    "InternVL2_5-38B": Recipe(vision_from=FROM_26B, stages=(_warm_up(107, 0.05), _tuning(1, 2e-5, 0.05, 0.4))),
    "InternVL2_5-78B": Recipe(vision_from=FROM_26B, stages=(_warm_up(76, 0.05), _tuning(1, 2e-5, 0.05, 0.4))),
}
"""By the name of the model, as in the catalogue."""


def of(name: str) -> Recipe:
    """The published recipe of a released size.

    Raises:
        UnknownRecipeError: names the sizes that have one.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownRecipeError(
            f"no recipe was published for {name!r}; there is one for {', '.join(RECIPES)}"
        ) from None
