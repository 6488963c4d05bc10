"""Samples that only the rank that decodes can find unreadable, left out by all ranks that share its packs."""

from collections.abc import Sequence

import numpy as np
import torch
from megatron.core import parallel_state

from internvl_trainer.data.pack import Pack
from internvl_trainer.engine.errors import lost_peers_named


def agree_on_masks(packs: Sequence[Pack]) -> list[Pack]:
    """The packs of one step without any sample that a rank of this model-parallel group has left out. Collective.

    One byte a sample travels, once a step, and nothing where the group is of one rank.

    Args:
        packs: of the same numbers on all ranks of the group, formed of the same samples.

    Raises:
        PeerLostError: a rank of the group is gone.
    """
    group = parallel_state.get_model_parallel_group()
    if group.size() == 1:
        return list(packs)
    counts = [pack.formed_of for pack in packs]
    gone = np.zeros(sum(counts), dtype=np.uint8)
    parts = np.split(gone, np.cumsum(counts)[:-1])
    for pack, part in zip(packs, parts, strict=True):
        part[list(pack.masked)] = 1
    votes = torch.from_numpy(gone).to("cuda" if torch.cuda.is_available() else "cpu")
    with lost_peers_named("agreeing on samples to leave out"):
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX, group=group)
        gone[:] = votes.cpu()
    return [pack.without(np.flatnonzero(part).tolist()) for pack, part in zip(packs, parts, strict=True)]
