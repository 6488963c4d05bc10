"""`internvl checkpoint copy`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import filesize

from internvl_trainer.checkpoint.cli import endpoint_options
from internvl_trainer.checkpoint.commands.common import (
    COMPONENT,
    at_store,
    bars,
    note,
    opened,
    print_json,
    whole_manifest_uri,
    whole_uri,
)
from internvl_trainer.checkpoint.commands.publish import snippets
from internvl_trainer.contract.base import Component

if TYPE_CHECKING:
    from internvl_trainer.checkpoint.copying import Copied
    from internvl_trainer.storage import ObjectStore

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("copy")
@click.argument("source")
@click.argument("destination")
@click.option(
    "--component", "names", type=COMPONENT, multiple=True, help="Only this part of SOURCE; can be given several times."
)
@click.option(
    "--scratch", type=FOLDER, help="Folder with room for 1 GiB, or the two largest objects; default: $TMPDIR."
)
@endpoint_options("to-", " of DESTINATION")
@at_store
def copy(
    source: str,
    destination: str,
    names: tuple[str, ...],
    scratch: Path | None,
    to_endpoint_url: str | None,
    to_region: str | None,
    to_virtual_host_style: bool,
    to_ca_file: str | None,
    store: "ObjectStore",
    output: str,
) -> None:
    """Copy a checkpoint to another folder or bucket.

    SOURCE is a checkpoint, which is copied as it is, or a component manifest, of which the component is copied;
    DESTINATION is the folder that gets MANIFEST.json. Every byte is compared with its digest. Of a component there is
    a manifest in DESTINATION/published, too, which a run can start from at any layout. Without options for DESTINATION
    it is in the store of SOURCE. Where a copy has ended early, the same command goes on.

    \b
    internvl checkpoint copy s3://runs/<uid>/stage1-5/published/a1/vision.json s3://models/vit
    internvl checkpoint copy s3://runs/<uid>/stage2/step-00005500/a1 s3://archive/8b --to-region eu-central-1
    """
    from internvl_trainer.checkpoint import copying
    from internvl_trainer.checkpoint.verify import open_any, read_component_manifest

    begun, uri = time.monotonic(), whole_manifest_uri(source)
    elsewhere = to_endpoint_url or to_region or to_virtual_host_style or to_ca_file
    other = opened(to_endpoint_url, to_region, to_virtual_host_style, to_ca_file) if elsewhere else store
    offer = read_component_manifest(store, uri)
    if offer is not None and names:
        raise click.UsageError("SOURCE is the manifest of one component already; leave --component out")
    components = [offer.component] if offer is not None else [Component(name) for name in names]
    plan = copying.plan(open_any(store, uri), whole_uri(destination), components)
    with bars(reading=plan.size, writing=plan.size) as told:
        done = copying.copy(plan, store, other, scratch=scratch, read=told["reading"], written=told["writing"])
    if done.traits is None:
        note("it was copied before")
    elif not done.traits.conditional_writes:
        note("the destination's store ignores conditional writes; nobody else may write to the same folder")
    _report(plan.source.ref.uri, done, time.monotonic() - begun, output)


def _report(source: str, done: "Copied", seconds: float, output: str) -> None:
    size, count = done.manifest.total_bytes, len(done.manifest.objects)
    if output == "json":
        published = {offered.offer.component: offered.ref.model_dump() for offered in done.offers}
        print_json(
            {
                "source": source,
                "uri": done.ref.uri,
                "sha256": done.ref.sha256,
                "published": published,
                "objects": count,
                "bytes": size,
                "seconds": round(seconds, 2),
            }
        )
        return
    click.echo(f"{done.ref.uri}\nsha256 {done.ref.sha256}")
    click.echo(f"{count} objects, {filesize.decimal(size)}, in {seconds:.2f} s")
    for offered in done.offers:
        click.echo(f"\n{offered.ref.uri}\nsha256 {offered.ref.sha256}\n")
        click.echo(snippets(offered.offer.component, offered.ref))
