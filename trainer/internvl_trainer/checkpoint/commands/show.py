"""`internvl checkpoint show`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from rich import filesize
from rich.console import Console
from rich.table import Table
from rich.text import Text

from internvl_trainer.checkpoint.cli import manifest_uri, table_console
from internvl_trainer.checkpoint.commands.common import at_store, fail, print_json, print_problems, problems_in_json
from internvl_trainer.checkpoint.commands.ls import in_json
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.manifest import (
    ComponentManifest,
    DrawnWeights,
    ImportedWeights,
    LineageEntry,
    LossSummary,
    Manifest,
    ManifestRef,
    RandomState,
    SaveTimes,
)
from internvl_trainer.contract.pin import Pin

if TYPE_CHECKING:
    from internvl_trainer.checkpoint.commands.looking import Looked
    from internvl_trainer.storage import ObjectStore

Facts = Iterable[tuple[str, str]]


@click.command("show")
@click.argument("manifest", metavar="CHECKPOINT")
@at_store
def show(manifest: str, store: "ObjectStore", output: str) -> None:
    """Show a checkpoint or a published component, and whether its objects are there.

    CHECKPOINT is a folder with MANIFEST.json, that manifest, or a component manifest, by URI or path. One listing is
    read; `internvl checkpoint verify` reads every byte. Ends with exit code 10 if something is wrong.
    """
    from internvl_trainer.checkpoint.commands.looking import look
    from internvl_trainer.checkpoint.pins import read_pin

    looked = look(store, manifest_uri(manifest))
    pin = read_pin(store, looked.checkpoint.ref.uri)
    if output == "json":
        _print_as_json(looked, pin)
    else:
        _print_as_tables(looked, pin, table_console())
    if looked.problems:
        fail(f"{looked.ref.uri} does not verify", ExitCode.INVALID_CHECKPOINT)


def _print_as_json(looked: "Looked", pin: Pin | None) -> None:
    found = looked.checkpoint.verdict.manifest
    checkpoint = in_json(looked.checkpoint) | {
        "pin": pin and pin.model_dump(mode="json", exclude={"seal"}),
        "manifest": found and found.model_dump(mode="json"),
    }
    if looked.offered is None:
        print_json(checkpoint)
        return
    ref, offer, _ = looked.offered
    print_json(
        {
            "uri": ref.uri,
            "sha256": ref.sha256,
            "problems": problems_in_json(looked.problems),
            "component": offer.component,
            "manifest": offer.model_dump(mode="json"),
            "source": checkpoint,
        }
    )


def _print_as_tables(looked: "Looked", pin: Pin | None, console: Console) -> None:
    manifest = looked.checkpoint.verdict.manifest
    if looked.offered is not None:
        console.print(_table(_facts_of_offer(looked.offered.ref, looked.offered.offer)))
        _print_lineage(looked.offered.offer.lineage, console)
    elif manifest is not None:
        console.print(_table([*_facts(looked.checkpoint.ref, manifest), *_pinned(pin)]))
        console.print()
        console.print(_components(manifest))
        _print_lineage(manifest.vision_lineage, console)
        objects = Table("OBJECT", "SIZE", "SHA256", box=None, pad_edge=False)
        for stored in manifest.objects:
            objects.add_row(Text(stored.key), filesize.decimal(stored.size), stored.sha256[:16])
        console.print()
        console.print(objects)
    console.print()
    print_problems(looked.problems, console)


def _table(facts: Facts) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(value))
    return table


def _facts(ref: ManifestRef, manifest: Manifest) -> Facts:
    layout = manifest.layout
    yield "manifest", ref.uri
    yield "sha256", ref.sha256
    yield "run", f"{manifest.run.namespace}/{manifest.run.name} ({manifest.run.uid})"
    yield "stage", f"{manifest.stage}, attempt {manifest.attempt}"
    yield "step", f"{manifest.step} of {manifest.total_steps}{', final' if manifest.is_final else ''}"
    yield "model", manifest.model.name
    yield "layout", f"tensor {layout.tensor}, pipeline {layout.pipeline}, data {layout.data}"
    yield "trained", ", ".join(manifest.trainable)
    yield "loss", _loss(manifest.loss)
    if manifest.learning_rate is not None:
        yield "learning rate", f"{manifest.learning_rate:.3g}"
    yield "tokens", f"{manifest.tokens:,} in {manifest.data.packs:,} packs"
    yield "data", _data(manifest.data)
    yield from _random(manifest.random)
    yield "created", manifest.created_at.isoformat()
    yield from _times(manifest.times)
    yield "size", f"{filesize.decimal(manifest.total_bytes)} in {len(manifest.objects)} objects"
    for name, origin in (("resumed from", manifest.resumed_from), ("copied from", manifest.copied_from)):
        if origin is not None:
            yield name, _reference(origin)
    yield from ((f"{component} from", _reference(parent)) for component, parent in manifest.parents.items())
    yield from ((f"{component} imported from", _import(weights)) for component, weights in manifest.imported.items())


def _facts_of_offer(ref: ManifestRef, offer: ComponentManifest) -> Facts:
    vision = offer.vision
    yield "manifest", ref.uri
    yield "sha256", ref.sha256
    yield "component", f"{offer.component}, {len(offer.tensors)} tensors"
    yield "of run", f"{offer.run.namespace}/{offer.run.name} ({offer.run.uid})"
    yield "stage", f"{offer.stage}, attempt {offer.attempt}"
    yield "step", str(offer.step)
    yield "checkpoint", _reference(offer.source)
    yield "encoder", f"{vision.layers} layers of {vision.hidden}, tiles of {vision.image_size} pixels"
    yield "published", offer.created_at.isoformat()


def _pinned(pin: Pin | None) -> Facts:
    if pin is not None:
        yield "pinned", f"since {pin.created_at:%Y-%m-%d %H:%M}{f': {pin.reason}' if pin.reason else ''}"


def _times(times: SaveTimes | None) -> Facts:
    if times is not None:
        yield (
            "save",
            f"training stood still for {times.waited + times.copied:.2f} s ({times.waited:.2f} s of it for the "
            f"checkpoint before), uploaded in {times.uploaded:.2f} s beside it",
        )


def _random(state: RandomState | None) -> Facts:
    if state is not None:
        yield "seeds", f"{state.seed} for weights and drop path, {state.data_seed} for data"


def _components(manifest: Manifest) -> Table:
    """Number of tensors and bytes of each component; what all of them need has a row of its own."""
    table = Table("COMPONENT", "TENSORS", "SIZE", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, tensors in manifest.components.items():
        size = sum(stored.size for stored in manifest.objects if name in stored.components)
        table.add_row(Text(name), f"{len(tensors):,}", filesize.decimal(size) if size else "")
    shared = sum(stored.size for stored in manifest.objects if not stored.components)
    table.add_row("for all of them", "", filesize.decimal(shared))
    return table


def _print_lineage(lineage: tuple[LineageEntry, ...], console: Console) -> None:
    if not lineage:
        return
    table = Table("VISION TRAINED BY", "STAGE", "STEP", "CHECKPOINT", "SHA256", box=None, pad_edge=False)
    table.columns[3].overflow = "fold"
    for link in lineage:
        run = f"{link.run.namespace}/{link.run.name}"
        cells = (run, link.stage, str(link.step), link.manifest.uri, link.manifest.sha256[:16])
        table.add_row(*map(Text, cells))
    console.print()
    console.print(table)


def _reference(ref: ManifestRef) -> str:
    return f"{ref.uri} (sha256 {ref.sha256[:16]})"


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
