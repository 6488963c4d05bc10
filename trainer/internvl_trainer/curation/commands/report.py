"""`internvl data report`."""

from pathlib import Path

import click
from rich.console import Console

from internvl_trainer.checkpoint.cli import table_console
from internvl_trainer.curation.endings import writable, writing
from internvl_trainer.curation.inputs import Inputs, load_tokenizer, takes_data
from internvl_trainer.curation.progress import watching
from internvl_trainer.curation.report.compose import compose
from internvl_trainer.curation.report.tables import tables
from internvl_trainer.curation.selection import chosen, global_batch_option, sources_option, steps_of
from internvl_trainer.data.index import find_or_build
from internvl_trainer.data.sources import read_sources


@click.command()
@takes_data
@sources_option
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), callback=lambda *given: _drawable(writable(*given)),
    help="Draw the report, too: a .png, .svg or .pdf file.",
)  # fmt: skip
@global_batch_option
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True)
def report(inputs: Inputs, names: tuple[str, ...], picture: Path | None, global_batch: int | None, output: str) -> None:
    """Show what a mixture consists of, from its index alone: by type and data set, in samples, tokens and tiles.

    Numbers are those of an epoch, that is after repeating; RAW says what lies there. Where there is no index yet, it is
    built.

    Examples:

    \b
      internvl data report s3://bucket/meta.json --tokenizer s3://bucket/tokenizer --set index=s3://bucket/index
      internvl data report --config trainer/examples/mixture.yaml --picture mixture.png
    """
    data, model, store, cache, _ = inputs
    tokenizer = load_tokenizer(inputs)
    sources = chosen(read_sources(data, store), names)
    with watching(Console(stderr=True), [source.name for source in sources]) as watch:
        indexes = find_or_build(sources, data, model, tokenizer, store, cache, watch=watch)
    made = compose(
        indexes,
        data,
        model=model.name,
        **steps_of(inputs, global_batch)._asdict(),
    )
    if output == "json":
        click.echo(made.model_dump_json(indent=1))
    else:
        table_console().print(*tables(made), sep="\n")
    if picture is not None:
        # matplotlib takes a second to import.
        from internvl_trainer.curation.report.picture import draw

        with writing(picture, "--picture"):
            draw(made, picture)
        click.echo(f"wrote {picture}", err=True)


def _drawable(path: Path | None) -> Path | None:
    if path is not None and path.suffix not in (".png", ".svg", ".pdf"):
        raise click.BadParameter(f"{path}: the name must end in .png, .svg or .pdf")
    return path
