"""`internvl checkpoint publish`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from internvl_trainer.checkpoint.commands.common import (
    COMPONENT,
    at_store,
    note,
    print_json,
    whole_manifest_uri,
    whole_uri,
)
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.contract.pin import Pin

if TYPE_CHECKING:
    from internvl_trainer.storage import ObjectStore


@click.command("publish")
@click.argument("manifest", metavar="CHECKPOINT")
@click.option("--component", "name", type=COMPONENT, required=True, help="The part to offer.")
@click.option("--output-uri", help="Where its manifest goes; default: published/COMPONENT.json in the checkpoint.")
@click.option("--pin", "is_pinned", is_flag=True, help="Also keep the checkpoint from being removed.")
@at_store
def publish(
    manifest: str, name: str, output_uri: str | None, is_pinned: bool, store: "ObjectStore", output: str
) -> None:
    """Offer one component of a checkpoint to other runs, at any layout.

    A small manifest is written that points at the tensors, which stay where they are. Doing it again is no error.

    \b
    internvl checkpoint publish s3://runs/<uid>/stage1-5/step-00004000/a1 --component vision
    """
    from internvl_trainer.checkpoint import offers, pins
    from internvl_trainer.checkpoint.verify import open_any

    component = Component(name)
    source = open_any(store, whole_manifest_uri(manifest))
    uri = whole_uri(output_uri) if output_uri else keys.published_by_hand_uri(source.ref.uri, component)
    offered = offers.put_offer(store, uri, offers.offer_of(source, component))
    if not source.manifest.is_final:
        note(f"the checkpoint is of step {source.manifest.step} of {source.manifest.total_steps}, not its stage's last")
    if not offered.is_new:
        note("it was published before")
    if is_pinned and pins.read_pin(store, source.ref.uri) is None:
        pins.pin(store, source.ref.uri, Pin(reason=f"{component} published as {uri}", created_at=datetime.now(UTC)))
    elif output_uri and not is_pinned:
        note("retention and gc see what is published inside a run's folder alone; --pin keeps the checkpoint")
    if output == "json":
        document = {"uri": uri, "sha256": offered.ref.sha256, "component": component}
        print_json(document | {"source": source.ref.model_dump(), "isNew": offered.is_new})
    else:
        click.echo(f"{uri}\nsha256 {offered.ref.sha256}\n")
        click.echo(snippets(component, offered.ref))


def snippets(component: Component, ref: ManifestRef) -> str:
    """What an InternVLTraining, and a job file, need to start from a published component."""
    if component is Component.VISION:
        spec = f"spec:\n  vision:\n    from:\n      uri: {ref.uri}\n"
    else:
        spec = f"spec:\n  weights:\n    {component}: {ref.uri}\n"
    job = f"init:\n  {component}: {{uri: {ref.uri}, sha256: {ref.sha256}}}"
    return f"# of an InternVLTraining\n{spec}\n# of a job file (internvl train)\n{job}"
