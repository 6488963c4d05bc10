"""`python -m hack.demo`: the whole main job, end to end, on real parts."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.panel import Panel

from hack.cluster import cluster as local_cluster
from hack.cluster import preflight
from hack.cluster.errors import ClusterError
from hack.cluster.paths import State
from hack.cluster.report import Report
from hack.cluster.settings import Settings
from hack.demo import curves, install, pretraining, publication, recipe, report, target, trainings
from hack.demo.debian import PackageError
from hack.demo.errors import DemoError
from hack.demo.kubectl import KubectlError
from hack.demo.outcome import StageOutcome, read_outcomes
from hack.demo.preflight import SESSION
from internvl_operator.console.tables import message_of, run_name, status_of
from internvl_operator.console.watch import WatchTimeoutError, follow, read_trainings
from internvl_trainer.checkpoint.errors import CheckpointError
from internvl_trainer.data.errors import DataError
from internvl_trainer.storage import ObjectStore, StoreError, open_store

NAMESPACE = "internvl-demo"
EXPECTED = (
    ClusterError, DemoError, KubectlError, PackageError, StoreError, CheckpointError, DataError, WatchTimeoutError,
)  # fmt: skip
"""Errors whose message says what to do; anything else is a bug and keeps its traceback."""

RUN_TIMEOUT_SECONDS = 3600.0


@click.command(help="Train two tiny InternVLs in a chain of stages and judge them on held-out pictures.")
@click.option(
    "--cluster", "kind", type=click.Choice(["local", "current"]), default="local", show_default=True,
    help="local: start one on this machine; current: the one of the current kubeconfig.",
)  # fmt: skip
def main(kind: str) -> None:
    """Set everything up, train, report."""
    console = Console() if sys.stdout.isatty() else Console(width=140)
    _silence_the_libraries()
    try:
        _demo(kind, console)
    except EXPECTED as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)


def _demo(kind: str, console: Console) -> None:
    began = time.monotonic()
    where = _target(kind, console)
    # boto3's standard chain reads the environment; nothing else of this process needs these.
    store = _store(where)
    folder = State().root / "demo"
    data_folder, data_uri = _data(where, store, folder, console)
    objects = _trainings(where, store, data_uri, folder, console)
    _section(console, "Installing the operator with helm")
    install.install(where)
    console.print(install.helm(where, "list").rstrip(), soft_wrap=True, highlight=False)
    _section(console, "Applying two InternVLTrainings")
    names = [run_name(one) for one in objects]
    where.kubectl.delete("internvltraining", *names)
    console.print(where.kubectl.apply(objects).rstrip())
    finished = _follow(where, names, console)
    _report(where, store, finished, folder, data_folder, console)
    _how_to_look_around(where, names, console, time.monotonic() - began)


def _silence_the_libraries() -> None:
    """torch and megatron-core warn at length of what they were built without and of each other's changes."""
    warnings.filterwarnings("ignore", module=r"(torch|megatron)\.")
    logging.getLogger("megatron").setLevel(logging.ERROR)


def _section(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def _target(kind: str, console: Console) -> target.Target:
    if kind == "current":
        _section(console, "Using the cluster of the current kubeconfig")
        return target.current(NAMESPACE)
    _section(console, "Starting the local cluster")
    state, settings = State(), Settings.from_environment(1)
    found = preflight.problems(settings, state)
    if found:
        raise DemoError("\n".join(found))
    local_cluster.up(state, settings, Report(console))
    return target.local(NAMESPACE, state)


def _store(where: target.Target) -> ObjectStore:
    """The object store, seen from this machine. Its credentials come from the environment, as everywhere."""
    os.environ.pop(SESSION, None)  # of the user's own store, where this one has none
    os.environ.update(where.storage.environment)
    return open_store(endpoint_url=where.storage.endpoint_url, region=where.storage.region)


def _data(where: target.Target, store: ObjectStore, folder: Path, console: Console) -> tuple[Path, str]:
    _section(console, "Making the data set: emoji pictures with their Unicode names")
    made = publication.make(folder / "data", packages=folder / "debian")
    return made, publication.publish(made, f"{where.storage.uri}/data", store, say=console.print)


def _trainings(
    where: target.Target, store: ObjectStore, data_uri: str, folder: Path, console: Console
) -> list[dict[str, Any]]:
    _section(console, "Pretraining the tiny language models on caption text")
    objects = []
    for run in recipe.RUNS:
        config = pretraining.job_config(run, storage=where.storage, data_uri=data_uri)
        with console.status(f"training the language model of {run.model} for {config.optimization.steps} steps"):
            uri = pretraining.pretrain(config, store=store, storage=where.storage, folder=folder / config.run.uid)
        console.print(f"{run.model}: {uri}", soft_wrap=True, highlight=False)
        objects.append(
            trainings.training(
                run, namespace=where.namespace, storage=where.storage, data_uri=data_uri, language_uri=uri
            )
        )
    return objects


def _follow(where: target.Target, names: Sequence[str], console: Console) -> list[dict[str, Any]]:
    _section(console, "Training (kubectl get ivt -w shows the same)")
    kubeconfig = str(where.kubeconfig) if where.kubeconfig else None
    finished = follow(
        lambda: read_trainings(where.namespace, names, kubeconfig=kubeconfig),
        console=console,
        timeout_seconds=RUN_TIMEOUT_SECONDS,
    )
    missing = set(names) - {run_name(one) for one in finished}
    if missing:
        raise DemoError(f"{', '.join(sorted(missing))} was deleted while it was watched; run make demo again")
    failed = [one for one in finished if status_of(one).phase != "Succeeded"]
    if failed:
        reasons = "; ".join(f"{run_name(one)}: {message_of(status_of(one))}" for one in failed)
        raise DemoError(f"{reasons}; kubectl -n {where.namespace} describe ivt says more")
    return finished


def _report(
    where: target.Target, store: ObjectStore, finished: list[dict[str, Any]], folder: Path, data: Path, console: Console
) -> None:
    outcomes = read_outcomes(finished, store)
    _section(console, "What came out")
    console.print(where.kubectl.run("get", "ivt").rstrip(), soft_wrap=True, highlight=False)
    console.print(report.stages_table(outcomes))
    for line in report.checkpoint_lines(outcomes):
        console.print(line, soft_wrap=True, highlight=False)
    console.print(report.lineage_tree(outcomes), soft_wrap=True, highlight=False)
    picture = curves.draw(outcomes, folder / "loss.png")
    console.print(f"loss curves: {picture}")
    for run in recipe.RUNS:
        _judge(run, outcomes, store, data, folder, console)


def _judge(
    run: recipe.Run, outcomes: Sequence[StageOutcome], store: ObjectStore, data: Path, folder: Path, console: Console
) -> None:
    # Here and not above: it imports torch and megatron-core, seconds in which nothing would be said.
    from hack.demo import held_out

    last = [outcome for outcome in outcomes if outcome.run == run.name][-1]
    _section(console, f"{run.name} on pictures that it has never seen")
    with console.status("reading the last checkpoint and naming pictures"):
        judged = held_out.judge(last.ref, data, store=store, scratch=folder / "judge")
    console.print(held_out.captions_table(judged))
    console.print(held_out.summary(judged))


def _how_to_look_around(where: target.Target, names: Sequence[str], console: Console, seconds: float) -> None:
    kubectl = ".venv/bin/kubectl" + (f" --kubeconfig {where.kubeconfig}" if where.kubeconfig else "")
    lines = [
        f"{kubectl} -n {where.namespace} get ivt",
        f"{kubectl} -n {where.namespace} describe ivt {names[0]}",
        f"{kubectl} -n {where.namespace} get jobs,pytorchjobs,pods",
        "",
        *_how_to_stop(where, kubectl),
    ]
    console.print(Panel("\n".join(lines), title="look around, and stop it", expand=False))
    console.print(f"done in {seconds / 60:.1f} minutes")


def _how_to_stop(where: target.Target, kubectl: str) -> list[str]:
    if where.kind == "local":
        return ["make cluster-down"]
    return [
        f"helm -n {where.namespace} uninstall {install.RELEASE}",
        f"{kubectl} delete namespace {where.namespace}",
        f"{kubectl} delete crd internvltrainings.training.internvl.dev   # where nobody else uses it",
        f"what lies below {where.storage.uri} stays until you delete it",
    ]


if __name__ == "__main__":
    main()
