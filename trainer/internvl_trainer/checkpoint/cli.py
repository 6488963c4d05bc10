"""`internvl checkpoint`: look at checkpoints where they lie. Needs neither torch nor a cluster."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click
from rich import filesize
from rich.console import Console
from rich.table import Table

from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.gate import Problem
from internvl_trainer.contract.manifest import DrawnWeights, ImportedWeights, LossSummary, Manifest

if TYPE_CHECKING:
    from internvl_trainer.storage import ObjectStore


PIPE_WIDTH = 1000
"""Columns of a table that no terminal bounds; more than an object key has."""


class Found(NamedTuple):
    """A manifest object, parsed as far as it parses."""

    uri: str
    sha256: str
    manifest: Manifest | None
    problems: tuple[Problem, ...]


def store_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options by which a command finds the object store; credentials come from boto3's standard chain."""
    for option in (
        click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True),
        click.option("--virtual-host-style", is_flag=True, help="Put the bucket into the host name, not the path."),
        click.option("--region", help="S3 region; default: the environment's."),
        click.option("--endpoint-url", help="S3-compatible endpoint; default: the environment's, else AWS."),
    ):
        command = option(command)
    return command


def manifest_uri(place: str) -> str:
    """The manifest of a checkpoint that is given by its folder or by its manifest."""
    return place if place.endswith(".json") else f"{place.rstrip('/')}/{keys.MANIFEST_NAME}"


def table_console() -> Console:
    """Where tables are printed: as wide as the terminal; into a pipe or a file, lines are never broken."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


@click.group()
def checkpoint() -> None:
    """Look at checkpoints, in a bucket or in a folder."""


@checkpoint.command("ls")
@click.argument("prefix")
@store_options
def list_checkpoints(
    prefix: str, endpoint_url: str | None, region: str | None, virtual_host_style: bool, output: str
) -> None:
    """List the committed checkpoints below PREFIX: a storage URI, a run's or a stage's folder, or a path.

    Manifests are shown relative to PREFIX.
    """
    with _store(endpoint_url, region, virtual_host_style) as store:
        uris = (info.uri for info in store.list(prefix.rstrip("/") + "/"))
        found = [_open(store, uri) for uri in uris if uri.endswith(f"/{keys.MANIFEST_NAME}")]
    if output == "json":
        click.echo(json.dumps([_summary(each) for each in found], indent=1))
    elif found:
        table_console().print(_listing(found, prefix.rstrip("/") + "/"))
    else:
        click.echo(f"no committed checkpoint below {prefix}", err=True)


@checkpoint.command("show")
@click.argument("manifest", metavar="CHECKPOINT")
@click.option("--read-all", is_flag=True, help="Read every object and compare its sha256, not only size and ETag.")
@store_options
def show_checkpoint(
    manifest: str,
    read_all: bool,
    endpoint_url: str | None,
    region: str | None,
    virtual_host_style: bool,
    output: str,
) -> None:
    """Show and verify a checkpoint, given by its folder or its MANIFEST.json, by URI or path.

    Ends with exit code 10 if it does not verify.
    """
    manifest = manifest_uri(manifest)
    with _store(endpoint_url, region, virtual_host_style) as store:
        from internvl_trainer.checkpoint import verify

        payload = store.read(manifest)
        verdict = verify.verify(store, manifest, verify.expected_by_key(manifest), read_all=read_all)
    found = Found(manifest, hashlib.sha256(payload).hexdigest(), verdict.manifest, verdict.problems)
    if output == "json":
        document = verdict.manifest and verdict.manifest.model_dump(mode="json")
        click.echo(json.dumps({**_summary(found), "manifest": document}, indent=1))
    else:
        _print_details(found, table_console())
    if found.problems:
        _fail(f"{manifest} does not verify", ExitCode.INVALID_CHECKPOINT)


@contextmanager
def _store(endpoint_url: str | None, region: str | None, virtual_host_style: bool) -> "Iterator[ObjectStore]":
    from internvl_trainer.storage import StoreError, open_store

    try:
        yield open_store(endpoint_url=endpoint_url, region=region, path_style=not virtual_host_style)
    except StoreError as error:
        _fail(str(error), error.exit_code)


def _fail(message: str, code: ExitCode) -> NoReturn:
    """End as the trainer would for the same cause."""
    click.echo(f"Error: {message}", err=True)
    raise click.exceptions.Exit(int(code))


def _open(store: "ObjectStore", uri: str) -> Found:
    from internvl_trainer.checkpoint import verify

    payload = store.read(uri)
    verdict = gate.judge_manifest(payload, verify.expected_by_key(uri))
    return Found(uri, hashlib.sha256(payload).hexdigest(), verdict.manifest, verdict.problems)


def _summary(found: Found) -> dict[str, Any]:
    """The stable JSON form of one row of `ls`."""
    summary: dict[str, Any] = {
        "uri": found.uri,
        "sha256": found.sha256,
        "problems": [{"reason": problem.reason, "message": str(problem)} for problem in found.problems],
    }
    manifest = found.manifest
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


def _listing(found: list[Found], prefix: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("RUN", "STAGE", "STEP", "LOSS", "SIZE", "CREATED"):
        table.add_column(heading, no_wrap=True)
    table.add_column("MANIFEST", overflow="fold")
    for each in found:
        manifest = each.manifest
        if manifest is None or each.problems:
            faults = "; ".join(problem.reason for problem in each.problems)
            table.add_row("", "", "", "", "", faults, each.uri.removeprefix(prefix))
            continue
        table.add_row(
            f"{manifest.run.namespace}/{manifest.run.name}",
            manifest.stage,
            f"{manifest.step}/{manifest.total_steps}{' final' if manifest.is_final else ''}",
            f"{manifest.loss.last:.4f}" if manifest.loss else "",
            filesize.decimal(manifest.total_bytes),
            f"{manifest.created_at:%Y-%m-%d %H:%M}",
            each.uri.removeprefix(prefix),
        )
    return table


def _print_details(found: Found, console: Console) -> None:
    manifest = found.manifest
    if manifest is not None:
        console.print(_facts(found, manifest))
        objects = Table("OBJECT", "SIZE", "SHA256", box=None, pad_edge=False)
        for stored in manifest.objects:
            objects.add_row(stored.key, filesize.decimal(stored.size), stored.sha256[:16])
        console.print()
        console.print(objects)
    console.print()
    for problem in found.problems:
        console.print(f"[red]{problem.reason}[/red]: {problem}", highlight=False)
    if not found.problems:
        console.print("[green]verified[/green]")


def _facts(found: Found, manifest: Manifest) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    layout = manifest.layout
    facts = [
        ("manifest", found.uri),
        ("sha256", found.sha256),
        ("run", f"{manifest.run.namespace}/{manifest.run.name} ({manifest.run.uid})"),
        ("stage", f"{manifest.stage}, attempt {manifest.attempt}"),
        ("step", f"{manifest.step} of {manifest.total_steps}{', final' if manifest.is_final else ''}"),
        ("model", manifest.model.name),
        ("layout", f"tensor {layout.tensor}, pipeline {layout.pipeline}, data {layout.data}"),
        ("trained", ", ".join(manifest.trainable)),
        ("loss", _loss(manifest.loss)),
        ("tokens", f"{manifest.tokens:,} in {manifest.data.packs:,} packs"),
        ("data", _data(manifest.data)),
        ("created", manifest.created_at.isoformat()),
        ("size", f"{filesize.decimal(manifest.total_bytes)} in {len(manifest.objects)} objects"),
        *((f"tensors of {name}", str(len(names))) for name, names in manifest.components.items()),
        *((f"{component} from", ref.uri) for component, ref in manifest.parents.items()),
        *((f"{component} imported from", _import(weights)) for component, weights in manifest.imported.items()),
        *(
            ("vision trained by", f"{link.run.namespace}/{link.run.name}, {link.stage}, step {link.step}")
            for link in manifest.vision_lineage
        ),
    ]
    for name, value in facts:
        table.add_row(name, value)
    return table


def _loss(loss: LossSummary | None) -> str:
    return f"{loss.first:.4f} -> {loss.last:.4f} in {loss.steps} steps" if loss else "none: not trained here"


def _data(position: DataPosition) -> str:
    return (
        f"epoch {position.epoch}, window {position.window}, {position.taken:,} packs of it; "
        f"{position.samples:,} samples, {position.skipped:,} of them left out"
    )


def _import(weights: ImportedWeights | DrawnWeights) -> str:
    if isinstance(weights, DrawnWeights):
        return f"nowhere: drawn at random from seed {weights.seed}"
    return f"{weights.uri} (sha256 of config and index {weights.sha256[:16]})"
