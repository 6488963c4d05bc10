"""The operator as a whole: builds its parts once, runs until it is told to stop, takes them down in order."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing

import kopf

from internvl_operator.adapters import clock
from internvl_operator.adapters.gate import Gate
from internvl_operator.adapters.health import Heartbeat, serve_health
from internvl_operator.adapters.kube import TRAININGS, Kubernetes, Resource
from internvl_operator.adapters.kube_errors import AccessDeniedError, KubernetesError
from internvl_operator.adapters.metrics import Metrics
from internvl_operator.adapters.object_store import ObjectStores
from internvl_operator.adapters.progress import ProgressBoard, ProgressEndpoint, TokenReviewer, serve_progress
from internvl_operator.api import labels
from internvl_operator.config import OperatorSettings, ProgressSettings
from internvl_operator.handlers import watch
from internvl_operator.handlers.observe import Observer
from internvl_operator.handlers.reconcile import Reconciler
from internvl_operator.handlers.runs import RunKey, Runs
from internvl_operator.jobs.base import Platform
from internvl_operator.jobs.base import ProgressEndpoint as PodsEndpoint
from internvl_operator.jobs.pytorchjob import PyTorchJob
from internvl_trainer.contract.base import RunIdentity
from internvl_trainer.contract.progress import REPORT_PATH

logger = logging.getLogger(__name__)

CHILDREN = {labels.MANAGED_BY: labels.MANAGER}
EXIT_SECONDS = 20.0
"""A stop that takes longer is cut short, before the kubelet's own patience ends."""

_LOOK_AGAIN_SECONDS = 5.0


async def run(settings: OperatorSettings, *, instance: str = "") -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: see `config`.
        instance: name of this process in Events; default: the host's name.

    Raises:
        kubernetes.aio.config.ConfigException: there is no way to the API server.
        AccessDeniedError: our role does not let us watch what we serve.
        Exception: a watch ended for good (a right is missing, a kind was removed); the process had better end too.
    """
    metrics = Metrics()
    heartbeat = Heartbeat(settings.health.stale_seconds)
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(
            await Kubernetes.connect(reporter=labels.MANAGER, instance=instance or socket.gethostname())
        )
        await stack.enter_async_context(serve_health(settings.health, heartbeat, metrics))
        await _wait_until_servable(kube, settings.watch_namespaces)
        stores = stack.enter_context(closing(ObjectStores(settings.gate)))
        gate = Gate(stores, full_digest_bytes=settings.gate.full_digest_bytes)
        board = ProgressBoard(lambda report_of: runs.nudge(_key(report_of)))
        kind = PyTorchJob()
        reconciler = Reconciler(
            settings, kube, Observer(kube, gate, kind, board), kind, _platform(settings), board, metrics, clock.now
        )
        runs = Runs(reconciler.reconcile, settings.reconcile, heartbeat, metrics)
        await stack.enter_async_context(_endpoint(settings.progress, board, kube, metrics))
        await _watch(settings, runs, heartbeat)


async def _watch(settings: OperatorSettings, runs: Runs, heartbeat: Heartbeat) -> None:
    namespaces = settings.watch_namespaces
    logger.info("serving %s", ", ".join(namespaces) or "all namespaces")
    ready = asyncio.Event()
    ready_task = asyncio.create_task(_announce(ready, heartbeat), name="ready")
    try:
        await kopf.operator(
            registry=watch.build_registry(runs, selector=CHILDREN, run_label=labels.RUN_NAME),
            settings=watch.build_settings(CHILDREN, exit_seconds=EXIT_SECONDS),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            ready_flag=ready,
        )
    finally:
        heartbeat.ready = False
        ready_task.cancel()
        await runs.close()
        logger.info("stopped")


async def _announce(ready: asyncio.Event, heartbeat: Heartbeat) -> None:
    await ready.wait()
    heartbeat.ready = True
    logger.info("ready")


@asynccontextmanager
async def _endpoint(
    settings: ProgressSettings, board: ProgressBoard, kube: Kubernetes, metrics: Metrics
) -> AsyncIterator[None]:
    if not settings.enabled:
        yield
        return
    reviewer = TokenReviewer(kube.review_token, settings.token_cache_seconds)
    endpoint = ProgressEndpoint(board, reviewer, metrics, settings.max_body_bytes)
    async with serve_progress(settings, endpoint) as port:
        logger.info("taking progress reports on port %d, as %s", port, settings.public_url)
        yield


def _platform(settings: OperatorSettings) -> Platform:
    progress = settings.progress
    endpoint = None
    if progress.ca_file is not None and progress.enabled:
        endpoint = PodsEndpoint(
            url=progress.public_url.rstrip("/") + REPORT_PATH,
            ca_certificate=progress.ca_file.read_text(encoding="utf-8"),
            interval_seconds=progress.report_seconds,
        )
    return Platform(progress=endpoint, pod_template=settings.trainer.pod_template)


async def _wait_until_servable(kube: Kubernetes, namespaces: Sequence[str]) -> None:
    """Return once everything that kopf will watch is there and ours to see.

    kopf looks at what the API server serves once, at its start, so nothing may be missing then. And it would meet a
    missing right with a minute of retries, where one line does.
    """
    for resource in (TRAININGS, *watch.CHILDREN):
        while (obstacle := await _obstacle(kube, resource, namespaces)) is not None:
            logger.warning("waiting for %s: %s", resource.plural, obstacle)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)


async def _obstacle(kube: Kubernetes, resource: Resource, namespaces: Sequence[str]) -> str | None:
    try:
        if resource.group and not await kube.serves(resource):
            return f"its CRD ({resource.group}/{resource.version}) is not installed"
        for namespace in namespaces or (None,):
            await kube.may_list(resource, namespace)
    except AccessDeniedError:
        raise
    except KubernetesError as error:
        return str(error)
    return None


def _key(run: RunIdentity) -> RunKey:
    return RunKey(run.namespace, run.name)
