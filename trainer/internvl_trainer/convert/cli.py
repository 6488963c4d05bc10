"""`internvl import` and `internvl export`. torch is loaded when they run, not when this file is imported."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from internvl_trainer.checkpoint.cli import manifest_uri, store_options, table_console
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.exit_codes import ExitCode

if TYPE_CHECKING:
    import torch


DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
COMPONENTS = [component.value for component in Component]
FOLDER = click.Path(file_okay=False, path_type=Path)


def dtype_option(command: Callable[..., None]) -> Callable[..., None]:
    """Of what dtype tensors are written."""
    help_text = "Dtype of all tensors; keep: each as it is. bf16 rounds fp32 weights."
    return click.option(
        "--dtype", type=click.Choice(["keep", *DTYPES]), default="keep", show_default=True, help=help_text
    )(command)


def scratch_option(command: Callable[..., None]) -> Callable[..., None]:
    """Where shards lie on their way."""
    return click.option(
        "--scratch", type=FOLDER, help="Folder for shards on their way; default: the system's temporary folder."
    )(command)


@click.command("import")
@click.argument("places", nargs=-1, metavar="[SOURCE] DESTINATION")
@click.option("--vision", help="Folder of a bare InternViT, in place of SOURCE; together with --language.")
@click.option("--language", help="Folder of a bare Qwen2.5 or InternLM2.5, in place of SOURCE.")
@click.option(
    "--component",
    "components",
    multiple=True,
    type=click.Choice([each.value for each in Component]),
    help="Only this part of SOURCE; can be given several times.",
)
@click.option("--model", "model_name", help="Model of the catalogue that SOURCE must be.")
@click.option("--vocab-size", type=click.IntRange(min=1), help="Tokens of a combined model; default: as released.")
@click.option("--seed", default=42, show_default=True, help="Of what a combined model has at random.")
@dtype_option
@scratch_option
@store_options
def import_(
    places: tuple[str, ...],
    vision: str | None,
    language: str | None,
    components: tuple[str, ...],
    model_name: str | None,
    vocab_size: int | None,
    seed: int,
    dtype: str,
    scratch: Path | None,
    endpoint_url: str | None,
    region: str | None,
    virtual_host_style: bool,
    ca_file: str | None,
    output: str,
) -> None:
    """Make a checkpoint of a Hugging Face folder.

    SOURCE is an InternVL-2.5 model in the native or the transformers layout, or a bare InternViT; DESTINATION is the
    folder that gets MANIFEST.json. Both are s3:// or file:// URIs, or paths. Tensors are read one at a time.

    \b
    internvl import s3://models/InternVL2_5-8B s3://runs/weights/InternVL2_5-8B
    internvl import ./InternViT-300M-448px s3://runs/weights/vit
    internvl import --vision ./InternViT-300M-448px --language ./internlm2_5-7b-chat s3://runs/weights/8b-start
    """
    source, destination = _places(places, vision, language)
    if not source and components:
        raise click.UsageError("--component takes a part of SOURCE; a combined model has all parts")
    with _failing_well():
        from internvl_trainer.checkpoint.weights import check_destination, commit_weights
        from internvl_trainer.convert.folder import HuggingFaceFolder
        from internvl_trainer.convert.importing import start_of_training, whole_folder
        from internvl_trainer.storage import open_store

        store = open_store(endpoint_url=endpoint_url, region=region, path_style=not virtual_host_style, ca_file=ca_file)
        check_destination(destination, store)
        model = catalog.get(model_name) if model_name else None
        if source:
            chosen = tuple(Component(each) for each in components)
            folder = HuggingFaceFolder(source, store)
            plan = whole_folder(folder, components=chosen, model=model, dtype=_dtype(dtype))
        else:
            parts = [HuggingFaceFolder(_whole_uri(place), store) for place in (vision, language) if place]
            plan = start_of_training(*parts, seed=seed, model=model, vocab_size=vocab_size, dtype=_dtype(dtype))
        _tell(plan.notes)
        begun = time.monotonic()
        with _progress("importing", len(plan.weights)) as advance:
            done = commit_weights(
                plan.weights, plan.provenance, destination, store, scratch=scratch, written=lambda _: advance()
            )
    _report(
        {
            "manifest": done.ref.uri,
            "sha256": done.ref.sha256,
            "model": plan.provenance.model.name,
            "components": [component for component in Component if done.manifest.components.get(component)],
            "tensors": len(plan.weights),
            "parameters": plan.parameters,
            "bytes": done.manifest.total_bytes,
            "seconds": round(time.monotonic() - begun, 2),
        },
        output,
    )


def _local(context: click.Context, parameter: click.Parameter, value: str) -> Path:
    """A folder on this machine."""
    if "://" in value:
        raise click.BadParameter(f"{value} is no path; export to a folder here, and upload that", context, parameter)
    return Path(value)


@click.command("export")
@click.argument("checkpoint")
@click.argument("folder", callback=_local)
@click.option("--layout", type=click.Choice(["native", "transformers"]), required=True, help="Names and config to use.")
@click.option("--component", type=click.Choice(["vision", "language"]), help="Only this part, as a bare folder.")
@click.option("--tokenizer", type=FOLDER, help="Folder whose tokenizer files are copied along.")
@click.option("--image-token", type=click.IntRange(min=0), help="Id of <IMG_CONTEXT>; default: as released.")
@dtype_option
@scratch_option
@store_options
def export(
    checkpoint: str,
    folder: Path,
    layout: str,
    component: str | None,
    tokenizer: Path | None,
    image_token: int | None,
    dtype: str,
    scratch: Path | None,
    endpoint_url: str | None,
    region: str | None,
    virtual_host_style: bool,
    ca_file: str | None,
    output: str,
) -> None:
    """Make a Hugging Face folder of a checkpoint.

    CHECKPOINT is a folder with MANIFEST.json, or a manifest, by URI or path; saved at any layout of processes. FOLDER
    is a path that does not exist yet; it appears when it is whole. native is OpenGVLab's layout, transformers that of
    the models whose names end in -hf; there InternLM2.5 is the Llama that it computes.

    \b
    internvl export s3://runs/<uid>/stage2/step-00005500/a1 ./InternVL2_5-8B --layout native
    internvl export s3://runs/<uid>/stage1-5/published/a1/vision.json ./InternViT --layout native --component vision
    """
    with _failing_well():
        from internvl_trainer.checkpoint.verify import open_any
        from internvl_trainer.convert import exporting
        from internvl_trainer.convert.mapping import Layout
        from internvl_trainer.storage import open_store

        exporting.check_destination(folder)
        store = open_store(endpoint_url=endpoint_url, region=region, path_style=not virtual_host_style, ca_file=ca_file)
        chosen = Component(component) if component else None
        source = open_any(store, manifest_uri(_whole_uri(checkpoint)))
        begun = time.monotonic()
        plan = exporting.plan(source, Layout(layout), chosen)
        with _progress("exporting", len(plan.table)) as advance:
            done = exporting.export(
                plan,
                store,
                folder,
                dtype=_dtype(dtype),
                image_token=image_token,
                tokenizer=tokenizer,
                scratch=scratch,
                written=lambda _: advance(),
            )
    _report(
        {
            "folder": str(folder),
            "manifest": source.ref.uri,
            "sha256": source.ref.sha256,
            "model": source.manifest.model.name,
            "layout": layout,
            "tensors": done.tensors,
            "bytes": done.size,
            "seconds": round(time.monotonic() - begun, 2),
        },
        output,
    )


def _places(places: tuple[str, ...], vision: str | None, language: str | None) -> tuple[str | None, str]:
    """SOURCE and DESTINATION; SOURCE is None where the two parts stand for it."""
    if bool(vision) != bool(language):
        raise click.UsageError("--vision and --language belong together; for one part alone use SOURCE and --component")
    wanted = 1 if vision else 2
    if len(places) != wanted:
        form = "--vision FOLDER --language FOLDER DESTINATION" if vision else "SOURCE DESTINATION"
        raise click.UsageError(f"{len(places)} arguments were given; the form is: internvl import {form}")
    source = None if vision else _whole_uri(places[0])
    return source, _whole_uri(places[-1])


def _whole_uri(place: str) -> str:
    """A place that means the same from everywhere: manifests and jobs name it."""
    return place if "://" in place else str(Path(place).absolute())


def _dtype(name: str) -> "torch.dtype | None":
    import torch

    return getattr(torch, DTYPES[name]) if name in DTYPES else None


@contextmanager
def _failing_well() -> Iterator[None]:
    """End with the exit code of the error that came, and its message."""
    from internvl_trainer.checkpoint.errors import CheckpointError
    from internvl_trainer.convert.errors import ConversionError
    from internvl_trainer.storage import StoreError

    try:
        yield
    except (CheckpointError, ConversionError, StoreError) as error:
        _fail(str(error), error.exit_code)
    except catalog.UnknownModelError as error:
        _fail(str(error), ExitCode.INVALID_CONFIG)
    except OSError as error:
        _fail(str(error), ExitCode.STORE_UNAVAILABLE)


def _fail(message: str, code: ExitCode) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    raise click.exceptions.Exit(int(code))


@contextmanager
def _progress(what: str, tensors: int) -> Iterator[Callable[[], None]]:
    """A bar on the terminal's error stream; what is yielded is called after each tensor."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tensors"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=tensors)
        yield lambda: progress.advance(task)


def _tell(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(f"Note: {note}", err=True)


def _report(facts: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(facts, indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    shown = {"bytes": lambda value: filesize.decimal(value), "components": ", ".join, "parameters": "{:,}".format}
    for name, value in facts.items():
        table.add_row(name, shown.get(name, str)(value))
    table_console().print(table)
