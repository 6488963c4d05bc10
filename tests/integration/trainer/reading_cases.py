"""What runs on the ranks of a grid to see what a pass reads back from the device. Place first."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from internvl_trainer.contract.job import JobConfig
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from tests.integration.trainer.packs import IMAGE, pack

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
}
"""Operations that need a tensor's values on the host, or whose result has a size that only its values tell."""


def reads(place: Place, job: JobConfig) -> dict[str, int]:
    """How often one step's forward and backward pass, its packs known on the host, reads a tensor; by what it calls."""
    engine = MegatronEngine(job, place, image_token=IMAGE)
    packs = [pack(i, job.model, with_tiles=place.needs_tiles) for i in place.pack_indices(0, 2)]
    scales = [0.5] * len(packs)
    engine._run(packs, scales, 0)  # constants are sent to the device once per process
    with counted() as seen:
        engine._run(packs, scales, 1)
    return dict(seen)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts reads of tensors inside, in backward passes too."""
    seen: Counter[str] = Counter()
    with _Methods(seen), _Operations(seen):
        yield seen


class _Methods(TorchFunctionMode):
    """`tolist` of a CPU tensor is no operation of torch's, so it is seen here alone."""

    def __init__(self, seen: Counter[str]) -> None:
        self.seen = seen

    def __torch_function__(self, call: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu):
            self.seen[call.__name__] += 1
        return call(*args, **kwargs or {})


class _Operations(TorchDispatchMode):
    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        masks = call is aten.index.Tensor and any(index is not None and index.dtype is torch.bool for index in args[1])
        open_end = call is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
        if call in READS or masks or open_end:
            self.seen[str(call)] += 1
        return call(*args, **kwargs)
