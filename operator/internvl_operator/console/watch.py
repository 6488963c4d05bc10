"""Follow runs until they end: a redrawn table on a terminal, a line per change elsewhere."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from kubernetes import client, config
from rich.console import Console
from rich.live import Live
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random_exponential
from urllib3.exceptions import HTTPError

from internvl_operator.api.base import GROUP, PLURAL, VERSION
from internvl_operator.console.tables import live_table, plain_line, run_name, status_of

Training = dict[str, Any]


class WatchTimeoutError(TimeoutError):
    """The runs did not end in time."""


def _is_passing(error: BaseException) -> bool:
    """Whether the API server may answer a moment later: it was not reached, or is busy or restarting."""
    if isinstance(error, client.ApiException):
        return error.status == 429 or (error.status or 500) >= 500
    return isinstance(error, HTTPError)


@retry(
    retry=retry_if_exception(_is_passing), stop=stop_after_delay(60), wait=wait_random_exponential(max=5), reraise=True
)
def read_trainings(namespace: str, names: Sequence[str], *, kubeconfig: str | None = None) -> list[Training]:
    """The named InternVLTrainings of a namespace, all of them where no name is given, in the order of the names.

    An API server that does not answer is asked again for a minute.

    Raises:
        kubernetes.client.ApiException: the API server refused.
        urllib3.exceptions.HTTPError: it was not reached.
        kubernetes.config.ConfigException: there is no usable kubeconfig.
    """
    api = client.CustomObjectsApi(config.new_client_from_config(config_file=kubeconfig))  # type: ignore[no-untyped-call]
    answer: Any = api.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL)
    listed: list[Training] = answer["items"]
    if not names:
        return sorted(listed, key=run_name)
    by_name = {run_name(training): training for training in listed}
    return [by_name[name] for name in names if name in by_name]


def follow(
    read: Callable[[], list[Training]],
    *,
    console: Console,
    title: str | None = None,
    interval_seconds: float = 2.0,
    timeout_seconds: float | None = None,
) -> list[Training]:
    """Show what `read` returns until every run has ended, and return the last reading.

    Raises:
        WatchTimeoutError: `timeout_seconds` went by; names the runs that had not ended.
    """
    deadline = time.monotonic() + timeout_seconds if timeout_seconds else None
    with Live(console=console, auto_refresh=False, transient=False) as live:
        shown: set[str] = set()
        while True:
            trainings = read()
            if console.is_terminal:
                live.update(live_table(trainings, title=title), refresh=True)
            else:
                for line in map(plain_line, trainings):
                    if line not in shown:
                        console.print(line, soft_wrap=True, highlight=False)
                        shown.add(line)
            open_runs = [run_name(training) for training in trainings if not status_of(training).is_finished]
            if trainings and not open_runs:
                return trainings
            if deadline is not None and time.monotonic() > deadline:
                raise WatchTimeoutError(
                    f"{', '.join(open_runs) or 'no run'} had not ended after {timeout_seconds:.0f} s; "
                    "look at `kubectl describe ivt` and the pods' logs"
                )
            time.sleep(interval_seconds)
