"""Waiting for a component, with one clear line when it does not come up."""

import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_result, stop_after_delay, wait_exponential

from hack.cluster.errors import ClusterError
from hack.cluster.processes import Started


def until(what: str, test: Callable[[], bool], seconds: float, *components: Started) -> None:
    """Returns as soon as `test` is true.

    Raises ClusterError when `seconds` have passed, or at once when one of `components` ends meanwhile.
    """

    def attempt() -> bool:
        for component in components:
            component.check()
        return test()

    def give_up(_: RetryCallState) -> None:
        log: Path | None = components[0].log if components else None
        raise ClusterError(f"{what}: not so after {seconds:g} s", log=log)

    Retrying(
        retry=retry_if_result(lambda met: not met),
        stop=stop_after_delay(seconds),
        wait=wait_exponential(multiplier=0.05, max=0.5),
        retry_error_callback=give_up,
    )(attempt)


def answers(url: str, authority: Path | None = None, client: tuple[Path, Path] | None = None) -> bool:
    """Whether `url` answers with a status below 400, or at all with one that only says who may not ask."""
    context = None
    if authority is not None:
        context = ssl.create_default_context(cafile=str(authority))
        if client is not None:
            context.load_cert_chain(*map(str, client))
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as response:
            return bool(response.status < 400)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, TimeoutError):
        return False
