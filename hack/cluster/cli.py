"""The command line: `python -m hack.cluster COMMAND`."""

import json
import sys
from collections.abc import Callable
from functools import wraps

import click

from hack.cluster import cluster, preflight, processes, python_environment, status, teardown
from hack.cluster.errors import ClusterError
from hack.cluster.paths import State
from hack.cluster.report import Report
from hack.cluster.settings import MAX_NODES, Settings


@click.group(help="A whole Kubernetes cluster on this machine, from real and pinned parts.")
@click.option("--verbose", is_flag=True, help="Show where in the code an error came from.")
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    context.obj = verbose


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an error that the user can act on into one line, and the guilty component's last words."""

    @wraps(command)
    def guard(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
        except (ClusterError, ValueError) as error:
            if click.get_current_context().obj:
                raise
            report = Report()
            log = getattr(error, "log", None)
            if log is not None:
                report.console.print(processes.tail(log), style="dim", markup=False, soft_wrap=True)
                report.console.print(f"the whole log: {log}", soft_wrap=True)
            report.console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
            sys.exit(1)

    return guard


@main.command()
@click.option("--nodes", type=click.IntRange(1, MAX_NODES), default=1, show_default=True, help="How many nodes.")
@_guarded
def up(nodes: int) -> None:
    """Start the cluster; does nothing when one with so many nodes is up and well."""
    state, report, settings = State(), Report(), Settings.from_environment(nodes)
    found = preflight.problems(settings, state)
    if found:
        raise ClusterError("\n".join(found))
    cluster.up(state, settings, report)
    report.say(f"export KUBECONFIG={state.kubeconfig}   # kubectl is in {sys.prefix}/bin")
    report.say(f"S3 at {settings.s3_url}, credentials in {state.s3_env}")


@main.command()
@_guarded
def down() -> None:
    """End the cluster and everything of it, but for logs and caches."""
    state, report = State(), Report()
    with cluster.exclusive(state):
        if teardown.exists(state):
            teardown.down(state, report)
        else:
            report.say("no cluster is up")


@main.command()
@_guarded
def build() -> None:
    """Bring and build what the cluster is made of, and start nothing."""
    state = State()
    with cluster.exclusive(state):
        cluster.prepare(state, Report())


@main.command("status")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_guarded
def show_status(output: str) -> None:
    """Show every component, node and listener; exit code 1 when something is wrong."""
    found = status.collect(State())
    if output == "json":
        print(json.dumps(found.as_dict(), indent=2))
    else:
        status.show(found)
    sys.exit(0 if found.well else 1)


@main.command("power-off")
@click.argument("node")
@_guarded
def power_off(node: str) -> None:
    """End NODE as a power cut would, for example to see a training recover."""
    cluster.power_off(State(), node)


@main.command("power-on")
@click.argument("node")
@_guarded
def power_on(node: str) -> None:
    """Start NODE again, with its disk as it was."""
    cluster.power_on(State(), node)


@main.command("mount-environment")
@click.option("--namespace", required=True, help="Made if it does not exist.")
@_guarded
def mount_environment(namespace: str) -> None:
    """Bring this Python environment into a namespace as read-only claims; prints the pod overlay as JSON."""
    print(json.dumps(python_environment.mount(State(), namespace), indent=2))
