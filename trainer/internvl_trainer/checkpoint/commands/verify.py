"""`internvl checkpoint verify`."""

import time
from typing import TYPE_CHECKING

import click
from rich import filesize

from internvl_trainer.checkpoint.cli import manifest_uri, table_console
from internvl_trainer.checkpoint.commands.common import (
    at_store,
    bars,
    fail,
    print_json,
    print_problems,
    problems_in_json,
)
from internvl_trainer.contract.exit_codes import ExitCode

if TYPE_CHECKING:
    from internvl_trainer.storage import ObjectStore


@click.command("verify")
@click.argument("manifest", metavar="CHECKPOINT")
@click.option("--quick", is_flag=True, help="Compare names, sizes and ETags by one listing, and read no object.")
@at_store
def verify(manifest: str, quick: bool, store: "ObjectStore", output: str) -> None:
    """Read every byte of a checkpoint and compare it with the digests in its manifest.

    CHECKPOINT is a folder with MANIFEST.json, that manifest, or a component manifest, which is verified together with
    the checkpoint that it points at. Ends with exit code 10 if something is wrong.
    """
    from internvl_trainer.checkpoint.commands.looking import look
    from internvl_trainer.checkpoint.verify import read_all

    begun = time.monotonic()
    looked = look(store, manifest_uri(manifest))
    verdict, problems = looked.checkpoint.verdict, looked.problems
    found = verdict.manifest
    reads = found is not None and not problems and not quick
    if reads:
        assert found is not None
        with bars(reading=found.total_bytes) as told:
            problems = read_all(store, looked.checkpoint.ref.uri, verdict, told["reading"]).problems
    objects, size = (len(found.objects), found.total_bytes) if found else (0, 0)
    seconds = time.monotonic() - begun
    if output == "json":
        print_json(
            {
                "uri": looked.ref.uri,
                "sha256": looked.ref.sha256,
                "checkpoint": looked.checkpoint.ref.uri,
                "problems": problems_in_json(problems),
                "objects": objects,
                "bytes": size,
                "read": reads,
                "seconds": round(seconds, 2),
            }
        )
    else:
        console = table_console()
        how = "read in" if reads else "listed in"
        if looked.offered is not None:
            console.print(f"points at {looked.checkpoint.ref.uri}", markup=False, highlight=False)
        console.print(f"{objects} objects, {filesize.decimal(size)}, {how} {seconds:.2f} s", highlight=False)
        print_problems(problems, console)
    if problems:
        fail(f"{looked.ref.uri} does not verify", ExitCode.INVALID_CHECKPOINT)
