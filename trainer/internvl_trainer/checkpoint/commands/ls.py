"""`internvl checkpoint ls`."""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich import filesize
from rich.table import Table
from rich.text import Text

from internvl_trainer.checkpoint.cli import table_console
from internvl_trainer.checkpoint.commands.common import at_store, print_json, problems_in_json
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component

if TYPE_CHECKING:
    from internvl_trainer.checkpoint.inventory import FoundManifest, Inventory
    from internvl_trainer.storage import ObjectStore


class Marks(NamedTuple):
    """What speaks for or against a checkpoint, besides itself."""

    pinned: bool
    published: tuple[Component, ...]
    """Components that a component manifest offers from it."""
    late: bool
    """Whether it was committed after a later attempt had begun, and never counts."""

    def __str__(self) -> str:
        words = ["pinned"] * self.pinned + [f"{each} published" for each in self.published] + ["late"] * self.late
        return ", ".join(words)


@click.command("ls")
@click.argument("prefix")
@at_store
def ls(prefix: str, store: "ObjectStore", output: str) -> None:
    """List the committed checkpoints below PREFIX: a storage URI, a run's or a stage's folder, or a path.

    The newest of a stage comes first. Manifests are shown relative to PREFIX. MARKS: pinned, what is published of it,
    and late, for one that a replaced attempt has committed and no run goes on from.
    """
    from internvl_trainer.checkpoint import inventory

    folder = prefix.rstrip("/") + "/"
    found = inventory.take(store, folder)
    marks_of = _marks(found)
    rows = [(each, marks_of(each)) for each in sorted(found.manifests.values(), key=_newest_first)]
    if output == "json":
        print_json([in_json(each) | _marks_in_json(marks) for each, marks in rows])
    elif rows:
        table_console().print(_table(rows, folder))
    else:
        click.echo(f"no committed checkpoint below {prefix}", err=True)


def in_json(found: "FoundManifest") -> dict[str, Any]:
    """The stable JSON form of a checkpoint in few words."""
    manifest = found.verdict.manifest
    summary: dict[str, Any] = {
        "uri": found.ref.uri,
        "sha256": found.ref.sha256,
        "problems": problems_in_json(found.verdict.problems),
    }
    if manifest is None:
        return summary
    return summary | {
        "run": manifest.run.model_dump(),
        "model": manifest.model.name,
        "stage": manifest.stage,
        "attempt": manifest.attempt,
        "step": manifest.step,
        "totalSteps": manifest.total_steps,
        "final": manifest.is_final,
        "loss": manifest.loss.last if manifest.loss else None,
        "tokens": manifest.tokens,
        "bytes": manifest.total_bytes,
        "createdAt": manifest.created_at.isoformat(),
    }


def _marks_in_json(marks: Marks) -> dict[str, Any]:
    return {"pinned": marks.pinned, "published": list(marks.published), "late": marks.late}


def _newest_first(found: "FoundManifest") -> tuple[str, int, int]:
    uri = found.ref.uri
    key = keys.parse_manifest_key(uri)
    return (uri.rsplit("/", 3)[0], -key.step, -key.attempt) if key else (uri, 0, 0)


def _marks(inventory: "Inventory") -> "Callable[[FoundManifest], Marks]":
    """What gives the marks of a checkpoint."""
    from internvl_trainer.checkpoint.inventory import identity_of

    late = {
        folder.manifest_uri
        for stage in inventory.stages
        for folder in stage.folders
        if folder.manifest is not None and folder.manifest_uri not in stage.admissible
    }
    offered: dict[tuple[str, str], set[Component]] = defaultdict(set)
    for offer in inventory.offers.values():
        offered[identity_of(offer.source.uri), offer.source.sha256].add(offer.component)

    def of(found: "FoundManifest") -> Marks:
        uri, mine = found.ref.uri, offered.get((identity_of(found.ref.uri), found.ref.sha256), set())
        return Marks(uri in inventory.pinned, tuple(each for each in Component if each in mine), uri in late)

    return of


def _table(rows: "list[tuple[FoundManifest, Marks]]", prefix: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("RUN", "STAGE", "STEP", "LOSS", "SIZE", "CREATED", "MARKS"):
        table.add_column(heading, no_wrap=True)
    table.add_column("MANIFEST", overflow="fold")
    for found, marks in rows:
        table.add_row(*map(Text, (*_cells(found), str(marks), found.ref.uri.removeprefix(prefix))))
    return table


def _cells(found: "FoundManifest") -> tuple[str, ...]:
    manifest, problems = found.verdict
    if manifest is None or problems:
        return ("", "", "", "", "", "; ".join(problem.reason for problem in problems))
    return (
        f"{manifest.run.namespace}/{manifest.run.name}",
        manifest.stage,
        f"{manifest.step}/{manifest.total_steps}{' final' if manifest.is_final else ''}",
        f"{manifest.loss.last:.4f}" if manifest.loss else "",
        filesize.decimal(manifest.total_bytes),
        f"{manifest.created_at:%Y-%m-%d %H:%M}",
    )
