"""How time and memory grow with the size of a checkpoint."""

from collections.abc import Sequence

from bench.checkpoint.compare import markdown
from bench.checkpoint.contender import MB
from bench.checkpoint.turn import Turn


def table(turns: Sequence[Turn]) -> str:
    """For a terminal, and for a Markdown page; in each row the turn that was fastest to store, of one size.

    Memory is the most that was above what the contender's process began with, and the most of any helper.
    """
    head = ["MB", "blocked s", "save s", "upload MB/s", "load s", "download MB/s"]
    head += ["memory MB save, load", "helper MB save, load", "of these private"]
    lines = [head, ["---"] * len(head)]
    for size in sorted({turn.bytes for turn in turns}):
        turn = min((turn for turn in turns if turn.bytes == size), key=lambda turn: turn.save_seconds)
        peaks = (turn.save_memory, turn.load_memory)
        lines.append(
            [
                f"{size / MB:,.0f}",
                f"{turn.blocked_seconds:.3f}",
                f"{turn.save_seconds:.2f}",
                f"{size / turn.save_seconds / MB:,.0f}",
                f"{turn.load_seconds:.2f}",
                f"{size / turn.load_seconds / MB:,.0f}",
                ", ".join(f"{peak.more / MB:,.0f}" for peak in peaks),
                ", ".join(f"{peak.helpers / MB:,.0f}" for peak in peaks),
                ", ".join(f"{peak.helpers_private / MB:,.0f}" for peak in peaks),
            ]
        )
    return markdown(lines)
