"""What can be wrong with a model, its layout or a pack, said in terms that a user can act on."""

from collections.abc import Iterable
from typing import ClassVar

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.layout import LayoutProblem, SplitProblem
from internvl_trainer.contract.pipeline import BalanceProblem


class LayoutError(ValueError):
    """A model geometry that cannot be cut to the requested process grid."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CONFIG

    def __init__(self, model: str, problems: Iterable[LayoutProblem | SplitProblem | BalanceProblem]) -> None:
        super().__init__(f"{model}: " + "; ".join(map(str, problems)))


class VisualTokenMismatchError(ValueError):
    """A pack whose `<IMG_CONTEXT>` placeholders are not as many as its tiles give visual tokens."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CONFIG

    def __init__(self, pack: int, samples: tuple[str, ...], placeholders: int, tiles: int, per_tile: int) -> None:
        super().__init__(
            f"pack {pack} has {placeholders} <IMG_CONTEXT> placeholders, but {tiles} tiles x {per_tile} = "
            f"{tiles * per_tile} visual tokens; samples of the pack: {', '.join(samples)}. Each tile of an image needs "
            f"exactly {per_tile} placeholders: check these samples' image tags and truncation"
        )
        self.pack = pack
        self.samples = samples
