"""`internvl checkpoint gc`."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from rich import filesize
from rich.table import Table
from rich.text import Text

from internvl_trainer.checkpoint.cli import table_console
from internvl_trainer.checkpoint.commands.common import at_store, note, print_json
from internvl_trainer.contract.retention import Retention

if TYPE_CHECKING:
    from internvl_trainer.checkpoint.garbage import Finding
    from internvl_trainer.checkpoint.inventory import Inventory
    from internvl_trainer.storage import ObjectStore

LEAST_AGE = timedelta(hours=1)
"""What is younger may still be under way."""

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def _age(context: click.Context, option: click.Parameter, text: str) -> timedelta:
    """A time span such as 90m, 24h or 7d."""
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no time span; give a number with m, h or d, as in 24h")
    age = int(match[1]) * _UNITS[match[2]]
    if age < LEAST_AGE:
        raise click.BadParameter(f"{text} is less than 1h, in which an upload may be under way; give 1h or more")
    return age


@click.command("gc")
@click.argument("prefix")
@click.option("--keep-last", type=click.IntRange(min=1), help="Checkpoints of each stage to keep; default: all.")
@click.option("--keep-every", type=click.IntRange(min=1), help="Keep those at multiples of so many steps, too.")
@click.option(
    "--older-than", callback=_age, default="24h", show_default=True, help="Age of what is given up: 90m, 24h, 7d."
)
@click.option("--delete", is_flag=True, help="Remove what is found; without it nothing is changed.")
@at_store
def gc(
    prefix: str,
    keep_last: int | None,
    keep_every: int | None,
    older_than: timedelta,
    delete: bool,
    store: "ObjectStore",
    output: str,
) -> None:
    """Find what no run needs any more below PREFIX: a storage URI, or a run's or a stage's folder.

    That is: checkpoints that --keep-last lets go, checkpoints that a replaced attempt committed too late, objects
    without a manifest, and unfinished uploads. Of the last three kinds only what a later attempt has left behind, or
    what is older than --older-than. What is pinned or published stays, and so do a stage's last checkpoint, its newest
    one, and all that is not ours.
    """
    from internvl_trainer.checkpoint import garbage, sweep

    if keep_every is not None and keep_last is None:
        raise click.UsageError("--keep-every goes with --keep-last: alone it lets nothing go")
    folder = prefix.rstrip("/") + "/"
    retention = Retention(keep_last=keep_last, keep_every=keep_every)
    found = _inventory(store, folder)
    rules = garbage.Rules(retention, older_than, datetime.now(UTC))
    findings = [finding for finding in garbage.plan(found, rules) if finding.uri.startswith(folder)]
    for uri in (stage.uri for stage in found.stages if stage.has_unknown_fences):
        note(f"{uri}: the record of an attempt cannot be read, so all checkpoints of this stage are left alone")
    gone = [sweep.sweep(store, finding) for finding in findings] if delete else [False] * len(findings)
    if output == "json":
        rows = [_in_json(finding) | {"removed": removed} for finding, removed in zip(findings, gone, strict=True)]
        size = sum(finding.size for finding in findings)
        print_json({"prefix": folder, "delete": delete, "bytes": size, "findings": rows})
        return
    if not findings:
        click.echo(f"nothing to remove below {prefix}", err=True)
        return
    table_console().print(_table(findings, folder))
    size, count = sum(each.size for each in findings), sum(len(each.objects) for each in findings)
    click.echo(f"\n{len(findings)} finding{'s' * (len(findings) > 1)}, {count:,} objects, {filesize.decimal(size)}")
    _tell_end(findings, gone, delete)


def _inventory(store: "ObjectStore", folder: str) -> "Inventory":
    """What lies below a folder; below its whole run, where it is a part of one: other stages may hold on to it."""
    from internvl_trainer.checkpoint import inventory

    found = inventory.take(store, folder, uploads=True)
    above = {stage.run_uri for stage in found.stages if folder.startswith(stage.run_uri) and folder != stage.run_uri}
    return inventory.take(store, min(above, key=len), uploads=True) if above else found


def _in_json(finding: "Finding") -> dict[str, Any]:
    key = finding.folder.key
    return {
        "kind": finding.kind,
        "uri": finding.uri,
        "stage": key.stage,
        "step": key.step,
        "attempt": key.attempt,
        "objects": len(finding.objects),
        "bytes": finding.size,
        "reason": finding.reason,
    }


def _table(findings: Iterable["Finding"], prefix: str) -> Table:
    table = Table("KIND", "OBJECTS", "SIZE", "REASON", box=None, pad_edge=False)
    table.add_column("WHERE", overflow="fold")
    for column in table.columns[1:3]:
        column.justify = "right"
    for finding in findings:
        count, size = (f"{len(finding.objects):,}", filesize.decimal(finding.size)) if finding.objects else ("", "")
        table.add_row(finding.kind, count, size, finding.reason, Text(finding.uri.removeprefix(prefix)))
    return table


def _tell_end(findings: list["Finding"], gone: list[bool], delete: bool) -> None:
    """What has been done, or can be."""
    if not delete:
        click.echo("Nothing was removed; --delete does it.")
        return
    click.echo(f"{sum(gone)} removed.")
    for finding, removed in zip(findings, gone, strict=True):
        if not removed:
            note(f"{finding.uri} was left alone: it has changed since it was listed")
