"""The competition: the server's ceiling is looked for, then all contenders take turns."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.checkpoint.arena import Arena
from bench.checkpoint.contender import KINDS, MB, kind_of
from bench.checkpoint.raw import BOTO3, HTTP
from bench.checkpoint.turn import Turn

PARALLEL = (1, 2, 4, 8)
BLOB_MIB = (8, 16, 32)
FINALISTS = 2
"""How many of the best ways to write, and of the best ways to read, are measured again in every round."""


@dataclass(frozen=True)
class Row:
    """Medians of one contender's turns; bytes per second, seconds of the clock and of processors."""

    name: str
    title: str
    blocked_seconds: float
    save_seconds: float
    load_seconds: float
    upload_rate: float
    download_rate: float
    upload_of_ceiling: float | None
    download_of_ceiling: float | None
    """Shares of the best raw median; None without --only raw."""
    save_cpu_seconds: float
    load_cpu_seconds: float
    save_memory: float
    load_memory: float
    """What this process and its largest helper had above what the former began with."""
    turns: int


def screen(arena: Arena, size: int, said: Callable[[str], None]) -> list[Turn]:
    """One turn of every raw way to move blobs."""
    names = [f"raw:{client}:{parallel}:{mib}" for client in (HTTP, BOTO3) for parallel in PARALLEL for mib in BLOB_MIB]
    return [_turn(arena, name, size, said) for name in names]


def finalists(screened: Sequence[Turn]) -> list[str]:
    """Names of the fastest in either direction."""
    writers = sorted(screened, key=lambda turn: turn.save_seconds)[:FINALISTS]
    readers = sorted(screened, key=lambda turn: turn.load_seconds)[:FINALISTS]
    return list(dict.fromkeys(turn.contender for turn in (*writers, *readers)))


def compete(arena: Arena, names: Sequence[str], size: int, rounds: int, said: Callable[[str], None]) -> list[Turn]:
    """Everybody's turns, in an order that turns round from round to round."""
    return [
        _turn(arena, name, size, said)
        for number in range(rounds)
        for name in (names if number % 2 == 0 else names[::-1])
    ]


def rows(turns: Sequence[Turn]) -> list[Row]:
    """Medians in the order of first turns."""
    names = list(dict.fromkeys(turn.contender for turn in turns))
    of = {name: [turn for turn in turns if turn.contender == name] for name in names}
    raw = [of[name] for name in names if name.startswith("raw:")]
    fastest = {
        field: min((_median(each, field) for each in raw), default=None) for field in ("save_seconds", "load_seconds")
    }

    def share(field: str, seconds: float) -> float | None:
        best = fastest[field]
        return None if best is None else best / seconds

    return [
        Row(
            name=name,
            title=kind_of(name).title,
            blocked_seconds=_median(of[name], "blocked_seconds"),
            save_seconds=(saved := _median(of[name], "save_seconds")),
            load_seconds=(loaded := _median(of[name], "load_seconds")),
            upload_rate=of[name][0].bytes / saved,
            download_rate=of[name][0].bytes / loaded,
            upload_of_ceiling=share("save_seconds", saved),
            download_of_ceiling=share("load_seconds", loaded),
            save_cpu_seconds=_median(of[name], "save_cpu_seconds"),
            load_cpu_seconds=_median(of[name], "load_cpu_seconds"),
            save_memory=statistics.median(turn.save_memory.more + turn.save_memory.helpers for turn in of[name]),
            load_memory=statistics.median(turn.load_memory.more + turn.load_memory.helpers for turn in of[name]),
            turns=len(of[name]),
        )
        for name in names
    ]


def table(found: Sequence[Row]) -> str:
    """For a terminal, and for a Markdown page."""
    head = ["", "blocked s", "save s", "upload MB/s", "of ceiling", "load s", "download MB/s", "of ceiling"]
    head += ["CPU s save, load", "memory MB save, load"]
    lines = [head, ["---"] * len(head)]
    for row in found:
        # The ceiling blocks nobody: no trainer works like this.
        blocked = "" if row.name.startswith("raw:") else f"{row.blocked_seconds:.3f}"
        lines.append(
            [
                row.title,
                blocked,
                f"{row.save_seconds:.2f}",
                f"{row.upload_rate / MB:,.0f}",
                _percent(row.upload_of_ceiling),
                f"{row.load_seconds:.2f}",
                f"{row.download_rate / MB:,.0f}",
                _percent(row.download_of_ceiling),
                f"{row.save_cpu_seconds:.2f}, {row.load_cpu_seconds:.2f}",
                f"{row.save_memory / MB:,.0f}, {row.load_memory / MB:,.0f}",
            ]
        )
    return markdown(lines)


def ratios(found: Sequence[Row]) -> str:
    """How many times as long as we each peer takes, as a table; empty without us or without peers."""
    ours = next((row for row in found if row.name == "ours"), None)
    peers = [row for row in found if row.name in KINDS and row.name != "ours"]
    if ours is None or not peers:
        return ""
    head = ["takes ... times as long as ours", "training blocked", "until stored", "load"]
    lines = [head, ["---"] * len(head)]
    for peer in peers:
        fields = ("blocked_seconds", "save_seconds", "load_seconds")
        times = [getattr(peer, field) / getattr(ours, field) for field in fields]
        lines.append([peer.title, *(f"{each:.2f}" for each in times)])
    return markdown(lines)


def screening_table(screened: Sequence[Turn]) -> str:
    """All raw ways: MB/s of PUT, then of GET."""
    head = ["PUT, GET MB/s", *(f"{parallel} at a time" for parallel in PARALLEL)]
    rates = {
        turn.contender: f"{turn.bytes / turn.save_seconds / MB:,.0f}, {turn.bytes / turn.load_seconds / MB:,.0f}"
        for turn in screened
    }
    lines = [head, ["---"] * len(head)]
    for client in (HTTP, BOTO3):
        for mib in BLOB_MIB:
            cells = [rates[f"raw:{client}:{parallel}:{mib}"] for parallel in PARALLEL]
            lines.append([f"{client}, {mib} MiB", *cells])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table of head, rule and rows."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def one_line(turn: Turn) -> str:
    """A turn as it happens."""
    return (
        f"{turn.contender}: blocked {turn.blocked_seconds:.3f} s, stored in {turn.save_seconds:.2f} s "
        f"({turn.bytes / turn.save_seconds / MB:,.0f} MB/s), loaded in {turn.load_seconds:.2f} s "
        f"({turn.bytes / turn.load_seconds / MB:,.0f} MB/s)"
    )


def _turn(arena: Arena, name: str, size: int, said: Callable[[str], None]) -> Turn:
    turn = arena.take(name, size)
    said(one_line(turn))
    return turn


def _median(turns: Sequence[Turn], field: str) -> float:
    return float(statistics.median(getattr(turn, field) for turn in turns))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
