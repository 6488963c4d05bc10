"""The demo's hyper-parameters as plain data: what each run trains, for how long, and at which layout.

Chosen on two CPU cores: a stage trains for ten to thirty seconds on a machine with nothing else to do, its loss falls
(averaged over 25 steps, as one step sees twenty samples), and both runs end with held-out captions ranked first about
four times as often as by guessing.
"""

from dataclasses import dataclass

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import ParallelLayout

VISION, PROJECTOR, LANGUAGE = Component.VISION, Component.PROJECTOR, Component.LANGUAGE


@dataclass(frozen=True)
class Packing:
    """Limits of a pack, inclusive; `max_tiles` per image where the meta JSON names none."""

    tokens: int = 1024
    tiles: int = 48
    max_tiles: int = 6


@dataclass(frozen=True)
class Stage:
    """One stage. `data` is the meta JSON's name in the demo's data set; learning rates are of AdamW."""

    name: str
    trainable: tuple[Component, ...]
    data: str
    steps: int
    peak_lr: float
    global_batch: int = 1
    warmup_steps: int = 5
    weight_decay: float = 0.05
    reweighting: str = "square"
    drop_path: float = 0.0
    checkpoint_every: int = 20
    packing: Packing = Packing()
    publish: tuple[Component, ...] = ()
    seed: int = 42
    """Of the order of samples. It differs between stages, so that none begins with what the last has seen."""


@dataclass(frozen=True)
class Run:
    """One InternVLTraining: its layout, its stages, and whose ViT it starts from (run, stage)."""

    name: str
    model: str
    nodes: int
    processes_per_node: int
    layout: ParallelLayout
    pretraining: Stage
    stages: tuple[Stage, ...]
    vision_from: tuple[str, str] | None = None


PRETRAINING = Stage(
    "pretrain", (LANGUAGE,), "pretrain", steps=120, peak_lr=3e-3, warmup_steps=10, global_batch=1,
    packing=Packing(tokens=4096), checkpoint_every=1000,
)  # fmt: skip

STAGE1 = Stage("stage1", (PROJECTOR,), "stage1", steps=80, peak_lr=3e-3, checkpoint_every=40, seed=1)
STAGE1_5 = Stage(
    "stage1-5", (VISION, PROJECTOR), "stage1-5", steps=150, peak_lr=2e-3, checkpoint_every=50, seed=2, publish=(VISION,)
)
STAGE2 = Stage("stage2", (VISION, PROJECTOR, LANGUAGE), "stage2", steps=120, peak_lr=2e-3, checkpoint_every=40, seed=3)

TINY_8B = Run(
    name="tiny-8b-like",
    model="tiny-8b-like",
    nodes=2,
    processes_per_node=2,
    layout=ParallelLayout(tensor=2, pipeline=2),
    pretraining=PRETRAINING,
    stages=(STAGE1, STAGE1_5, STAGE2),
)

TINY_1B = Run(
    name="tiny-1b-like",
    model="tiny-1b-like",
    nodes=2,
    processes_per_node=1,
    layout=ParallelLayout(tensor=1, pipeline=2),
    pretraining=PRETRAINING,
    stages=(STAGE1, STAGE2),
    vision_from=("tiny-8b-like", "stage1-5"),
)

RUNS = (TINY_8B, TINY_1B)
