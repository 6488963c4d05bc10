"""`internvl data filter`."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from internvl_trainer.checkpoint.cli import store_options, table_console
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.endings import fail, failing_well
from internvl_trainer.curation.filter import inputs, report
from internvl_trainer.curation.filter.decisions import Decisions, read_decisions
from internvl_trainer.curation.filter.policy import Policy, read_policy
from internvl_trainer.curation.filter.run import Request, estimate, filter_data
from internvl_trainer.launch.job_file import from_folder, read_job
from internvl_trainer.processes.processors import usable_processors
from internvl_trainer.storage import open_store

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("filter")
@click.argument("places", nargs=-1, metavar="[META] OUTPUT")
@click.option("--config", type=FILE, help="A job whose data sets are filtered, in place of META.")
@click.option("--policy", "policy_file", type=FILE, help="YAML: rules, data sets, judge. Default: rules' defaults.")
@click.option(
    "--apply-review", "reviews", type=FILE, multiple=True, help="review.jsonl with decisions; can be given again."
)
@click.option(
    "--journal", type=click.Path(dir_okay=False, path_type=Path), help="File of scores; default: OUTPUT.scores."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes for the rules; default: one for each CPU.")
@click.option("--dry-run", is_flag=True, help="Judge by rules, count what the judge would be asked, write nothing.")
@click.option("--ask-unreadable", is_flag=True, help="Ask again where earlier answers could not be read.")
@click.option("--force", is_flag=True, help="Replace an earlier output.")
@store_options
def filter_(
    places: tuple[str, ...],
    config: Path | None,
    policy_file: Path | None,
    reviews: tuple[Path, ...],
    journal: Path | None,
    workers: int | None,
    dry_run: bool,
    ask_unreadable: bool,
    force: bool,
    endpoint_url: str | None,
    region: str | None,
    virtual_host_style: bool,
    ca_file: str | None,
    output: str,
) -> None:
    """Sort out samples of low quality.

    Writes a folder OUTPUT with the filtered data sets and a meta JSON for them, what was removed, what a person has to
    decide, and a report. META and OUTPUT are paths or s3:// URIs.

    \b
    internvl data filter meta.json filtered
    internvl data filter meta.json filtered --policy policy.yaml --dry-run
    internvl data filter meta.json final --policy policy.yaml --apply-review filtered/review.jsonl
    """
    meta, folder = _places(places, config)
    with _failing_well(folder):
        job = read_job(config, now=datetime.now(UTC)) if config else None
        storage = job.storage if job else None
        store = open_store(
            endpoint_url=endpoint_url or (storage.endpoint_url if storage else None),
            region=region or (storage.region if storage else None),
            path_style=not virtual_host_style and (storage is None or storage.path_style),
            ca_file=ca_file or (storage.ca_file if storage else None),
        )
        policy = read_policy(policy_file) if policy_file else Policy()
        request = Request(
            data_sets=inputs.data_sets_of_job(job.data, store) if job else inputs.data_sets_of_meta(meta, store),
            policy=policy,
            output=folder,
            journal=_journal(journal, folder, policy),
            decisions=Decisions(decision for path in reviews for decision in read_decisions(path)),
            workers=workers or usable_processors(),
            force=force,
            ask_unreadable=ask_unreadable,
        )
        _note_strangers(request)
        if dry_run:
            _print_estimate(estimate(request, store, _stage), output)
        else:
            _print_report(filter_data(request, store, _stage), folder, output)


def _places(places: tuple[str, ...], config: Path | None) -> tuple[str, str]:
    """The meta JSON, empty beside a job file, and the output folder."""
    wanted = 1 if config else 2
    if len(places) != wanted:
        form = "--config JOB OUTPUT" if config else "META OUTPUT"
        raise click.UsageError(f"give internvl data filter {form}, not {len(places)} places")
    whole = [from_folder(place, Path.cwd()).removeprefix("file://") for place in places]
    return ("" if config else whole[0]), whole[-1]


def _journal(given: Path | None, folder: str, policy: Policy) -> Path | None:
    """Where scores are kept: beside the output, which appears only when all of them are there."""
    if given is not None or policy.judge is None:
        return given
    if "://" in folder:
        raise click.UsageError("an output in a bucket needs --journal FILE on this machine, where scores are kept")
    return Path(f"{folder.rstrip('/')}.scores")


def _note_strangers(request: Request) -> None:
    """A name in the policy that no data set has may be a slip of the pen."""
    names = {each.source.name for each in request.data_sets}
    for name in request.policy.sources:
        if name not in names and not any(sign in name for sign in "*?["):
            click.echo(f"Note: the policy has a data set {name!r}, which the data has not", err=True)


@contextmanager
def _failing_well(folder: str) -> Iterator[None]:
    """End with the exit code of the error that came, and its message."""
    kept = f"nothing was written to {folder}; scores so far are in the journal, and the same command goes on"
    with failing_well({"OUTPUT": folder, "TMPDIR": tempfile.gettempdir()}, interrupted=kept):
        try:
            yield
        except ModuleNotFoundError as error:
            if error.name not in ("openai", "aiolimiter"):
                raise
            fail(f"a judge needs {error.name}; install internvl-operator[filter]", ExitCode.INVALID_CONFIG)


@contextmanager
def _stage(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal's error stream."""
    done = DownloadColumn(binary_units=True) if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), done, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda amount: progress.advance(task, amount)


def _print_estimate(found: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(found, indent=1))
        return
    rules, judge = found["rules"], found["judge"]
    click.echo(
        f"{rules['samples']:,} samples; the rules flag {rules['flagged']:,}, of which {rules['removed']:,} would be "
        "removed. Nothing was written."
    )
    if judge is not None:
        minutes = (
            "" if judge["minutes"] is None else f", at least {judge['minutes']:,.1f} minutes at the policy's rates"
        )
        cost = f", cost {judge['cost']:,.2f}" if judge["cost"] else ""
        click.echo(
            f"The judge would be asked {judge['questions']:,} questions: about {judge['prompt_tokens']:,} tokens of "
            f"prompts and at most {judge['answer_tokens']:,} of answers{minutes}{cost}."
        )


def _print_report(document: dict[str, Any], folder: str, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(document, indent=1))
        return
    table = Table(*report.HEADINGS, box=None, pad_edge=False)
    for heading in table.columns[2:8]:
        heading.justify = "right"
    for row in report.rows(document):
        # Text of samples is no markup.
        table.add_row(*map(Text, row))
    table_console().print(table)
    totals = document["totals"]
    click.echo(
        f"{totals['samples']:,} samples: {totals['kept']:,} kept, {totals['removed']:,} removed, "
        f"{totals['review']:,} to review; see {folder}/report.md"
    )
