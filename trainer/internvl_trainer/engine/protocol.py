"""What the training loop and the checkpointer ask of an engine."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from internvl_trainer.data.pack import Pack

ShardedStateDict = dict[str, Any]
"""Local name -> sharded tensor, in megatron.core's form."""


class StepResult(NamedTuple):
    """What one optimizer step did, over the whole global batch; the same on all ranks.

    `loss` is the weighted mean of the cross entropies, by `optimization.loss_denominator`. `tokens` counts tokens of
    packs (there is no padding), `tiles` the image tiles, blank tiles of text packs excluded, `skipped` the samples
    that are left out of packs because they could not be read. `grad_norm` is taken before clipping.
    """

    loss: float
    grad_norm: float
    tokens: int
    tiles: int
    skipped: int


class Engine(Protocol):
    """Trains a model on packs. Every method is collective: call it on all ranks, in the same order."""

    def train_step(
        self, packs: Sequence[Pack], learning_rate: float, step: int, *, loss_limit: float | None = None
    ) -> StepResult:
        """One optimizer step on this data-parallel rank's micro-batches; `step` is 0-based.

        Raises:
            NonFiniteLossError: on all ranks, before any parameter changed; loss or gradient norm is NaN or infinite.
            LossSpikeError: on all ranks, before any parameter changed; the loss is above `loss_limit`.
            VisualTokenMismatchError: a pack's placeholders do not match its tiles.
            NothingSupervisedError: on all ranks; no token of the global batch carries loss weight.
            PeerLostError: a collective failed.
        """
        ...

    def sharded_model_state(self) -> ShardedStateDict:
        """All weights; names and checkpoint keys begin `vision_model.`, `projector.` or `language_model.`."""
        ...

    def load_model_state(self, state: Mapping[str, Any]) -> None:
        """Take weights, possibly of some components only, under the names of `sharded_model_state()`."""
        ...

    def sharded_optimizer_state(self) -> ShardedStateDict:
        """State of the optimizer, of the trainable components alone; checkpoint keys begin `optimizer.`."""
        ...

    def load_optimizer_state(self, state: ShardedStateDict) -> None:
        """Take the optimizer's state, in the form of `sharded_optimizer_state()`."""
        ...
