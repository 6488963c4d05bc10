"""Checkpoints against a real S3 server: python -m bench.checkpoint [growth].

What is measured and what is not:

- Every turn is a process of its own with a bucket of its own: prepare, a small save and load as a warm-up, then one
  save and one load by the clock, and a comparison of every byte. Neither imports nor the warm-up count.
- The server runs on the same machine, whose cores it shares with the client: a client that needs less processor time
  leaves more to the server. The ceiling knows this as well.
- boto3's row begins and ends at files, and so does ours as long as ours.py says so; DCP's are in memory.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from bench.checkpoint import arena, compare
from bench.checkpoint import growth as growing
from bench.checkpoint.contender import KINDS, MB, kind_of
from bench.checkpoint.turn import Turn

RAW = "raw"


@click.group(invoke_without_command=True)
@click.option("--megabytes", default=512, show_default=True, help="Of a checkpoint, in 10^6 bytes.")
@click.option("--rounds", default=3, show_default=True, help="Turns of each contender.")
@click.option("--shards", default=4, show_default=True, help="Files of a checkpoint.")
@click.option("--only", multiple=True, type=click.Choice([*KINDS, RAW]), help="Repeatable; default: all.")
@click.option("--screen-megabytes", default=256, show_default=True, help="For each way to reach the ceiling.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write the figures.")
@click.pass_context
def main(
    context: click.Context,
    megabytes: int,
    rounds: int,
    shards: int,
    only: tuple[str, ...],
    screen_megabytes: int,
    json_file: Path | None,
) -> None:
    """Save and load the same bytes: ours, boto3, DCP, and as fast as the server can."""
    if context.invoked_subcommand is not None:
        return
    size, names = megabytes * MB, list(only or (*KINDS, RAW))
    _prepare(names)
    with arena.opened(shards, size) as place:
        screened: list[Turn] = []
        contenders = [name for name in names if name != RAW]
        if RAW in names:
            screened = compare.screen(place, min(size, screen_megabytes * MB), _say)
            contenders = [*compare.finalists(screened), *contenders]
        turns = compare.compete(place, contenders, size, rounds, _say)
    found = compare.rows(turns)
    click.echo(f"\n{_conditions(turns)}\n{_command()}\n")
    if screened:
        click.echo(f"The ceiling, {screened[0].bytes / MB:,.0f} MB each:\n\n{compare.screening_table(screened)}\n")
    click.echo(f"{turns[0].bytes / MB:,.0f} MB in {shards} shards, medians of {rounds}:\n\n{compare.table(found)}")
    if comparison := compare.ratios(found):
        click.echo(f"\n{comparison}")
    if json_file is not None:
        _write(json_file, turns, {"rows": [asdict(row) for row in found], "screened": [asdict(t) for t in screened]})


@main.command()
@click.option("--sizes", default="10,100,1000", show_default=True, help="Of checkpoints, in 10^6 bytes.")
@click.option("--rounds", default=1, show_default=True, help="Turns for each size.")
@click.option("--shards", default=4, show_default=True, help="Files of a checkpoint.")
@click.option("--contender", type=click.Choice(list(KINDS)), default="ours", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write the figures.")
def growth(sizes: str, rounds: int, shards: int, contender: str, json_file: Path | None) -> None:
    """Time and memory against the size of a checkpoint, of one contender."""
    try:
        ascending = sorted({int(size) * MB for size in sizes.split(",")})
    except ValueError:
        raise click.BadParameter(
            f"{sizes!r} is no list of whole numbers like 10,100,1000", param_hint="--sizes"
        ) from None
    _prepare([contender])
    turns: list[Turn] = []
    with arena.opened(shards, ascending[-1]) as place:
        for size in ascending:
            turns += compare.compete(place, [contender], size, rounds, _say)
            place.forget(size)
    click.echo(f"\n{_conditions(turns)}\n{_command()}\n\n{contender}:\n\n{growing.table(turns)}")
    if json_file is not None:
        _write(json_file, turns, {})


def _prepare(names: Sequence[str]) -> None:
    if any(KINDS[name].peers_environment for name in names if name != RAW):
        arena.make_peers_environment()


def _say(line: str) -> None:
    """Progress, apart from the tables."""
    click.echo(line, err=True)


def _command() -> str:
    return f"python -m bench.checkpoint {shlex.join(sys.argv[1:])}".rstrip()


def _conditions(turns: Sequence[Turn]) -> str:
    """Machine, versions, date, and how busy the machine was besides."""
    from bench import devices

    return f"{devices.describe()}; {_versions(turns)}; {datetime.now(UTC).date().isoformat()}; load {os.getloadavg()}"


def _versions(turns: Sequence[Turn]) -> str:
    """Of .venv, and in brackets those of the peers' environment, which has another botocore."""
    theirs = [turn.versions for turn in turns if kind_of(turn.contender).peers_environment]
    ours = [turn.versions for turn in turns if not kind_of(turn.contender).peers_environment]
    text = [", ".join(f"{name} {version}" for name, version in each[0].items()) for each in (ours, theirs) if each]
    return text[0] + "".join(f" (peers: {more})" for more in text[1:])


def _write(file: Path, turns: Sequence[Turn], more: dict[str, object]) -> None:
    facts = {"command": _command(), "conditions": _conditions(turns), "turns": [asdict(turn) for turn in turns]}
    file.write_text(json.dumps(facts | more, indent=1) + "\n")


if __name__ == "__main__":
    main()
