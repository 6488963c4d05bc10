"""`internvl data index`: measure every sample of a job's data sets once, and keep the result."""

import json
from collections.abc import Sequence
from typing import Any

import click
from rich import filesize
from rich.console import Console
from rich.table import Table
from rich.text import Text

from internvl_trainer.checkpoint.cli import table_console
from internvl_trainer.curation.inputs import Inputs, load_tokenizer, takes_data
from internvl_trainer.curation.names import add_names
from internvl_trainer.curation.progress import watching
from internvl_trainer.data.errors import TooManyBadSamplesError
from internvl_trainer.data.index import SourceIndex, check_budget, find_or_build
from internvl_trainer.data.sources import read_sources

SHOWN_OF_DIGEST = 12
"""Characters of an index's name that tables show; enough to find it in the folder that keeps it."""


@click.command()
@takes_data
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="How many measure samples at once; default: one for each processor that may be used.",
)
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True)
def index(inputs: Inputs, processes: int | None, output: str) -> None:
    """Measure every sample of META or of a job, and keep the result.

    Indexes are kept in the folder that the field `index` of the job's data section names, where trainer pods find
    them, and in --cache. An index is found again while annotation file, tokenizer and settings are the same.

    Ends with exit code 2 where a data set has more bad samples than `max_bad_fraction` allows.

    \b
    internvl data index --config job.yaml
    internvl data index s3://data/meta.json --tokenizer s3://models/InternVL2_5-8B --set index=s3://data/index
    """
    data, model, store, cache, _ = inputs
    sources = read_sources(data, store)
    tokenizer = load_tokenizer(inputs)
    with watching(Console(stderr=True), [source.name for source in sources]) as watch:
        found = find_or_build(sources, data, model, tokenizer, store, cache, processes=processes, watch=watch)
    if output == "json":
        click.echo(json.dumps([_facts(each) for each in found], indent=1))
    else:
        table_console().print(_table(found))
    _check_budgets(found, data.max_bad_fraction)


def _check_budgets(found: Sequence[SourceIndex], max_bad_fraction: float) -> None:
    faults = []
    for each in found:
        try:
            check_budget(each, max_bad_fraction)
        except TooManyBadSamplesError as fault:
            faults.append(f"{fault}; all of them: {each.files.bad_samples}")
    if faults:
        raise TooManyBadSamplesError("\n".join(faults))


def _facts(each: SourceIndex) -> dict[str, Any]:
    header = each.header
    return {
        "source": header.source,
        "annotation": header.annotation,
        "samples": header.samples,
        "bad": header.bad,
        "reasons": header.reasons,
        "tokens": header.tokens,
        "tiles": header.tiles,
        "kinds": header.kinds,
        "bytes": header.rows.size,
        "digest": header.digest,
        "built": each.built,
        "bad_samples": str(each.files.bad_samples),
    }


def _table(found: Sequence[SourceIndex]) -> Table:
    table = Table(box=None, pad_edge=False, show_footer=len(found) > 1)
    headers = [each.header for each in found]
    add_names(table, footer="all")
    for name, values in (
        ("SAMPLES", [header.samples for header in headers]),
        ("BAD", [header.bad for header in headers]),
        ("TOKENS", [header.tokens for header in headers]),
        ("TILES", [header.tiles for header in headers]),
    ):
        table.add_column(name, f"{sum(values):,}", justify="right", no_wrap=True)
    size = filesize.decimal(sum(header.rows.size for header in headers))
    table.add_column("SIZE", size, justify="right", no_wrap=True)
    table.add_column("INDEX", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each, header in zip(found, headers, strict=True):
        counts = (header.samples, header.bad, header.tokens, header.tiles)
        size, digest = filesize.decimal(header.rows.size), header.digest[:SHOWN_OF_DIGEST]
        table.add_row(Text(header.source), *(f"{count:,}" for count in counts), size, digest, _origin(each))
    return table


def _origin(each: SourceIndex) -> str:
    return "built" if each.built else "found"
