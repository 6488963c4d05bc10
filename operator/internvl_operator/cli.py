"""The operator's commands of `internvl`: crd, plan and watch. They need no cluster but for watch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from internvl_operator.api import crd as crds
from internvl_operator.api import reference
from internvl_operator.api.base import KIND
from internvl_operator.api.training import InternVLTraining
from internvl_operator.domain import indexing, queries
from internvl_operator.domain.stages import Expansion, StagePlan, expand
from internvl_operator.domain.state import RunSource
from internvl_trainer.contract.memory import GIB, estimate_memory
from internvl_trainer.contract.pipeline import job_layers

COLUMNS = "Stage", "Trains", "Steps", "Peak LR", "Batch", "Nodes", "TP x PP x DP", "GiB/device", "Publishes", "Data"
OPERATOR_IMAGE = "(the operator's trainer.image)"


@click.command()
@click.option("--write", is_flag=True, help="Write the repository's copies instead of printing.")
@click.option("--check", is_flag=True, help="Fail where a copy in the repository differs from the models.")
@click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="The repository; default: here."
)
def crd(write: bool, check: bool, root: Path) -> None:
    """Print the CustomResourceDefinition, or write or check the generated files of the repository."""
    generated = dict.fromkeys(crds.COPIES, crds.to_yaml()) | {reference.PAGE: reference.to_markdown()}
    if write:
        for path, text in generated.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
            click.echo(f"wrote {root / path}")
    elif check:
        stale = [str(path) for path, text in generated.items() if not _holds(root / path, text)]
        if stale:
            raise click.ClickException(f"{', '.join(stale)} differ from the models; run `internvl crd --write`")
    else:
        click.echo(crds.to_yaml(), nl=False)


@click.command()
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def plan(file: TextIO, output: str) -> None:
    """Show the stages that the InternVLTrainings in FILE (-: standard input) expand to, and what is wrong with them.

    Below them stand the Jobs that index data: one for all stages that read the same data in the same way.

    GiB/device is an estimate for packs at their limits, of the pipeline stage that needs most.
    """
    trainings = list(_read(file))
    if not trainings:
        raise click.ClickException(f"{file.name} holds no {KIND}")
    expansions = [(training, expand(training.spec, default_image=OPERATOR_IMAGE)) for training in trainings]
    if output == "json":
        click.echo(json.dumps([_as_json(*pair) for pair in expansions], indent=2))
    else:
        console = Console(width=None if Console().is_terminal else 160)
        for training, expansion in expansions:
            console.print(_as_table(training, expansion))
    problems = [f"{run.metadata.name}: {problem}" for run, expansion in expansions for problem in expansion.problems]
    if problems:
        raise click.ClickException("; ".join(problems))


@click.command()
@click.argument("names", nargs=-1)
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("--timeout", type=float, default=None, help="Seconds after which to give up.")
def watch(names: tuple[str, ...], namespace: str, timeout: float | None) -> None:
    """Follow runs until they end; fails where one of them did."""
    # Here and not above: the Kubernetes client is part of the operator's extra.
    from internvl_operator.console import watch as console_watch
    from internvl_operator.console.tables import run_name, status_of

    try:
        trainings = console_watch.follow(
            lambda: console_watch.read_trainings(namespace, names), console=Console(), timeout_seconds=timeout
        )
    except console_watch.WatchTimeoutError as error:
        raise click.ClickException(str(error)) from error
    failed = [run_name(training) for training in trainings if status_of(training).phase == "Failed"]
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _read(file: TextIO) -> Iterator[InternVLTraining]:
    try:
        documents = [document for document in yaml.safe_load_all(file) if document]
    except yaml.YAMLError as error:
        raise click.ClickException(f"{file.name} is no YAML: {error}") from error
    for document in documents:
        if not isinstance(document, dict) or document.get("kind") != KIND:
            continue
        try:
            yield InternVLTraining.model_validate(document)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
            raise click.ClickException(f"{file.name} is not valid:\n  " + "\n  ".join(faults)) from error


def _as_json(training: InternVLTraining, expansion: Expansion) -> dict[str, Any]:
    return {
        "name": training.metadata.name,
        "model": training.spec.model,
        "startsFrom": _origins(training),
        "stages": [
            {
                "name": stage.name,
                "trainable": list(stage.trainable),
                "nodes": stage.nodes,
                "processesPerNode": stage.processes_per_node,
                "layout": stage.layout.model_dump(),
                "pipelineLayers": list(job_layers(stage)),
                "memoryGiB": [round(each.parts.total / GIB, 1) for each in estimate_memory(stage)],
                "microBatches": _micro_batches(stage),
                "data": stage.data.model_dump(),
                "indexJob": indexing.job_name(training.metadata.name, stage),
                "optimization": stage.optimization.model_dump(),
                "checkpoint": stage.checkpoint.model_dump(mode="json"),
            }
            for stage in expansion.stages
        ],
        "problems": [str(problem) for problem in expansion.problems],
    }


def _as_table(training: InternVLTraining, expansion: Expansion) -> Table:
    starts = ", ".join(f"{part} from {origin}" for part, origin in _origins(training).items()) or "random weights"
    table = Table(title=f"{training.metadata.name}: {training.spec.model}, {starts}", title_justify="left")
    for heading in COLUMNS:
        table.add_column(heading)
    for stage in expansion.stages:
        table.add_row(
            stage.name,
            " ".join(stage.trainable),
            str(stage.optimization.steps),
            f"{stage.optimization.peak_lr:g}",
            f"{stage.optimization.global_batch} ({_micro_batches(stage)} per replica)",
            f"{stage.nodes} x {stage.processes_per_node}",
            f"{stage.layout.tensor} x {stage.layout.pipeline} x {stage.layout.data}",
            f"{max(each.parts.total for each in estimate_memory(stage)) / GIB:.1f}",
            " ".join(stage.checkpoint.publish) or "-",
            stage.data.meta or f"{len(stage.data.mixture)} sources",
        )
    jobs = _index_jobs(training, expansion)
    table.caption_justify = "left"
    table.caption = "\n".join(f"{job} indexes the data of {', '.join(stages)}" for job, stages in jobs.items())
    return table


def _index_jobs(training: InternVLTraining, expansion: Expansion) -> dict[str, list[str]]:
    """The Jobs that index data before it is trained on, each with the stages that need it."""
    jobs: dict[str, list[str]] = {}
    for stage in expansion.stages:
        jobs.setdefault(indexing.job_name(training.metadata.name, stage), []).append(stage.name)
    return jobs


def _micro_batches(stage: StagePlan) -> int:
    """Packs that each data-parallel replica sees in one step; the micro-batch is one pack."""
    return stage.optimization.global_batch // stage.layout.data


def _origins(training: InternVLTraining) -> dict[str, str]:
    return {
        str(query.component): (
            f"run {query.source.run}, stage {query.source.stage}"
            if isinstance(query.source, RunSource)
            else query.source.uri
        )
        for query in queries.run_sources(training.spec)
    }
