"""`internvl data check`."""

from pathlib import Path

import click
from rich.console import Console

from internvl_trainer.checkpoint.cli import table_console
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.check.findings import Plan
from internvl_trainer.curation.check.progress import shown
from internvl_trainer.curation.check.run import Outcome
from internvl_trainer.curation.check.run import check as run_check
from internvl_trainer.curation.check.tables import tables
from internvl_trainer.curation.endings import writable
from internvl_trainer.curation.inputs import Inputs, load_tokenizer, takes_data
from internvl_trainer.curation.selection import chosen, global_batch_option, sources_option, steps_of
from internvl_trainer.data.index.part import Measuring
from internvl_trainer.data.sources import read_sources
from internvl_trainer.processes.processors import usable_processors


@click.command()
@takes_data
@sources_option
@click.option(
    "--bad", "bad_file", type=click.Path(dir_okay=False, path_type=Path), callback=writable,
    help="File that gets every bad sample as a line of JSON, while the check runs.",
)  # fmt: skip
@click.option("--no-pixels", is_flag=True, help="Decode no image and no video: fast, and blind to damaged files.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one for each processor.")
@global_batch_option
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True)
def check(
    inputs: Inputs,
    names: tuple[str, ...],
    bad_file: Path | None,
    no_pixels: bool,
    workers: int | None,
    global_batch: int | None,
    output: str,
) -> None:
    """Read all data once, as training would, and report what it would meet.

    Every line is parsed and tokenised, every image and video decoded. The exit code says how it ended: 0 fit for
    training, 2 too many bad samples or wrong data, 20 the store did not answer, 21 a worker died, 30 interrupted; an
    early end, too, reports what was found until then.

    Examples:

    \b
      internvl data check s3://bucket/meta.json --tokenizer s3://bucket/tokenizer --bad bad.jsonl
      internvl data check --config trainer/examples/mixture.yaml --no-pixels --sources pairs,clips
    """
    measuring = Measuring(
        data=inputs.data,
        model=inputs.model,
        tokenizer=load_tokenizer(inputs),
        store=inputs.store,
        cache=inputs.cache,
    )
    plan = Plan(
        sources=chosen(read_sources(inputs.data, inputs.store), names),
        measuring=measuring,
        pixels=not no_pixels,
        workers=workers or usable_processors(),
        **steps_of(inputs, global_batch)._asdict(),
    )
    with shown(Console(stderr=True)) as watch:
        outcome = run_check(plan, bad_file, watch)
    if output == "json":
        click.echo(outcome.report.model_dump_json(indent=1))
    else:
        table_console().print(*tables(outcome.report), sep="\n")
    if code := _end(outcome):
        raise click.exceptions.Exit(int(code))


def _end(outcome: Outcome) -> ExitCode:
    """Say what ended the check early, and with which code it ends."""
    if isinstance(outcome.ended_by, KeyboardInterrupt):
        click.echo("interrupted; this is what was found until then", err=True)
        return ExitCode.INTERRUPTED
    if outcome.ended_by is not None:
        click.echo(f"Error: {outcome.ended_by}", err=True)
        return outcome.ended_by.exit_code
    return ExitCode.INVALID_CONFIG if outcome.report.problems else ExitCode.SUCCESS
