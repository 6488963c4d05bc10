"""`internvl checkpoint pin` and `unpin`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from internvl_trainer.checkpoint.cli import manifest_uri, names_checkpoint
from internvl_trainer.checkpoint.commands.common import at_store, note, print_json
from internvl_trainer.contract.pin import MOST_CHARACTERS, Pin

if TYPE_CHECKING:
    from internvl_trainer.storage import ObjectStore


def _reason(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """A reason that is not too long."""
    if text is not None and len(text) > MOST_CHARACTERS:
        raise click.BadParameter(f"it has {len(text)} characters, and may have {MOST_CHARACTERS}; say it shorter")
    return text


@click.command("pin")
@click.argument("manifest", metavar="CHECKPOINT")
@click.option("--reason", callback=_reason, help="Why it is to stay, for people.")
@at_store
def pin(manifest: str, reason: str | None, store: "ObjectStore", output: str) -> None:
    """Keep a checkpoint from being removed, by retention or by gc.

    CHECKPOINT is a folder with MANIFEST.json, that manifest, or a component manifest, whose checkpoint is meant. One
    that is pinned already stays so; a reason replaces the one before.
    """
    from internvl_trainer.checkpoint import pins
    from internvl_trainer.checkpoint.verify import open_any

    uri = open_any(store, manifest_uri(manifest)).ref.uri
    present = pins.read_pin(store, uri)
    if present is None or reason is not None:
        present = Pin(reason=reason or "", created_at=datetime.now(UTC))
        pins.pin(store, uri, present)
    else:
        note(f"pinned since {present.created_at:%Y-%m-%d %H:%M}")
    _report(uri, present, output)


@click.command("unpin")
@click.argument("manifest", metavar="CHECKPOINT")
@at_store
def unpin(manifest: str, store: "ObjectStore", output: str) -> None:
    """Take a checkpoint's pin away: retention and gc may remove it like any other.

    CHECKPOINT is given as for pin. One without a pin is no error.
    """
    from internvl_trainer.checkpoint import pins
    from internvl_trainer.checkpoint.verify import read_component_manifest

    uri = manifest_uri(manifest)
    # A checkpoint may be damaged and still have to lose its pin.
    offer = None if names_checkpoint(uri) else read_component_manifest(store, uri)
    uri = offer.source.uri if offer is not None else uri
    if not pins.unpin(store, uri):
        note("it had no pin")
    _report(uri, None, output)


def _report(uri: str, pin: Pin | None, output: str) -> None:
    if output == "json":
        print_json({"uri": uri, "pin": pin and pin.model_dump(mode="json", exclude={"seal"})})
    else:
        click.echo(f"{'pinned' if pin else 'not pinned'}: {uri}")
