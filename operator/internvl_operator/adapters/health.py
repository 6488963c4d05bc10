"""The plain HTTP port: /healthz and /readyz for the kubelet, /metrics for Prometheus."""

import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from internvl_operator.adapters.metrics import Metrics
from internvl_operator.config import HealthSettings

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Heartbeat:
    """Knows which passes are under way, and since when. A pass that never ends makes the process unhealthy."""

    def __init__(self, stale_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stale_seconds = stale_seconds
        self._monotonic = monotonic
        self._began: dict[Hashable, float] = {}
        self.ready = False
        """Whether the operator watches the cluster."""

    @contextmanager
    def beat(self, key: Hashable) -> Iterator[None]:
        """Around each pass; `key` tells it from the others that are under way."""
        self._began[key] = self._monotonic()
        try:
            yield
        finally:
            del self._began[key]

    def stuck(self) -> list[Hashable]:
        """The passes that have been under way for longer than any pass may."""
        now = self._monotonic()
        return [key for key, began in self._began.items() if now - began > self._stale_seconds]


@asynccontextmanager
async def serve_health(settings: HealthSettings, heartbeat: Heartbeat, metrics: Metrics) -> AsyncIterator[int]:
    """Serve probes and metrics while the context lasts.

    Yields:
        the TCP port that is listened on (of interest where the settings say 0).
    """

    async def healthz(_: web.Request) -> web.Response:
        stuck = heartbeat.stuck()
        return web.Response(text=f"stuck: {stuck}\n" if stuck else "ok\n", status=503 if stuck else 200)

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n" if heartbeat.ready else "starting\n", status=200 if heartbeat.ready else 503)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": METRICS_CONTENT_TYPE})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    async with listen(application, settings.host, settings.port) as port:
        yield port


@asynccontextmanager
async def listen(application: web.Application, host: str, port: int, **site_options: object) -> AsyncIterator[int]:
    """Serve an application while the context lasts, without access log, and yield the TCP port listened on."""
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, **site_options).start()  # type: ignore[arg-type]
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
