"""The progress endpoint: trainers POST where they are, and the newest report of each attempt is kept in memory.

A report is believed when its bearer token, reviewed by the API server for our audience, belongs to a pod of the very
attempt that it speaks of. Nothing that decides about a run rests on reports: they are for people and dashboards.
"""

import asyncio
import hashlib
import json
import logging
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from aiohttp import web
from pydantic import ValidationError

from internvl_operator.adapters.health import listen
from internvl_operator.adapters.kube import TokenIdentity
from internvl_operator.adapters.kube_errors import KubernetesError
from internvl_operator.adapters.metrics import Metrics
from internvl_operator.config import ProgressSettings
from internvl_operator.domain.actions import job_name
from internvl_operator.domain.state import AttemptKey
from internvl_trainer.contract.base import RunIdentity
from internvl_trainer.contract.progress import REPORT_PATH, TOKEN_AUDIENCE, ProgressReport

logger = logging.getLogger(__name__)

ReviewToken = Callable[[str, str], Awaitable[TokenIdentity | None]]
"""Asks the API server whose token this is: (token, audience) -> identity, None for an invalid one."""

_REJECTED_TOKEN_SECONDS = 10.0
_CACHED_TOKENS = 4096
_CONCURRENT_REVIEWS = 8


class ProgressBoard:
    """The newest reports of the followed runs. Lost with the process: the next ones are seconds away."""

    def __init__(self, on_report: Callable[[RunIdentity], None]) -> None:
        """`on_report` is called for every report that brings something new."""
        self._on_report = on_report
        self._runs: dict[str, RunIdentity] = {}
        self._reports: dict[str, dict[str, ProgressReport]] = {}

    def follow(self, run: RunIdentity) -> None:
        """Take reports of this run from now on."""
        self._runs[run.uid] = run

    def forget(self, run_uid: str) -> None:
        """Take no more reports of a run that is gone, and drop those that there are."""
        self._runs.pop(run_uid, None)
        self._reports.pop(run_uid, None)

    def run(self, run_uid: str) -> RunIdentity | None:
        """The followed run of this UID."""
        return self._runs.get(run_uid)

    def reports(self, run_uid: str) -> dict[AttemptKey, ProgressReport]:
        """The newest report of each stage's newest attempt."""
        reports = self._reports.get(run_uid, {}).values()
        return {AttemptKey(report.stage, report.attempt): report for report in reports}

    def put(self, report: ProgressReport) -> bool:
        """Keep a report, unless a newer one of the same or of a later attempt is known; tells whether it was kept."""
        stages = self._reports.setdefault(report.run_uid, {})
        known = stages.get(report.stage)
        if known and (known.attempt, known.reported_at) >= (report.attempt, report.reported_at):
            return False
        stages[report.stage] = report
        self._on_report(self._runs[report.run_uid])
        return True


class Refusal(Exception):  # noqa: N818  an answer, not an error of ours
    """Why a report was not taken: HTTP status and one line for the trainer's log."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Reviewed(NamedTuple):
    identity: TokenIdentity | None
    until: float


class TokenReviewer:
    """Reviews bearer tokens, and remembers the answers for a while by the tokens' digests, never by the tokens."""

    def __init__(
        self, review: ReviewToken, cache_seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._review = review
        self._cache_seconds = cache_seconds
        self._monotonic = monotonic
        self._reviewed: OrderedDict[bytes, _Reviewed] = OrderedDict()
        self._slots = asyncio.Semaphore(_CONCURRENT_REVIEWS)

    async def identity(self, token: str) -> TokenIdentity | None:
        """Whom a token for our audience belongs to, None where it is not valid.

        Raises:
            KubernetesError: the API server did not answer, or we may not ask.
        """
        digest = hashlib.sha256(token.encode()).digest()
        known = self._reviewed.get(digest)
        if known and known.until > self._monotonic():
            return known.identity
        async with self._slots:
            identity = await self._review(token, TOKEN_AUDIENCE)
        seconds = self._cache_seconds if identity else min(_REJECTED_TOKEN_SECONDS, self._cache_seconds)
        self._reviewed[digest] = _Reviewed(identity, self._monotonic() + seconds)
        while len(self._reviewed) > _CACHED_TOKENS:
            self._reviewed.popitem(last=False)
        return identity


class ProgressEndpoint:
    """Turns HTTP requests into reports on the board."""

    def __init__(self, board: ProgressBoard, reviewer: TokenReviewer, metrics: Metrics, max_body_bytes: int) -> None:
        self._board = board
        self._reviewer = reviewer
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    def application(self) -> web.Application:
        """The web application with the one route."""
        application = web.Application(client_max_size=self._max_body_bytes)
        application.add_routes([web.post(REPORT_PATH, self._post)])
        return application

    async def _post(self, request: web.Request) -> web.Response:
        try:
            await self._accept(request)
        except Refusal as refusal:
            response = _refused(refusal)
        else:
            response = web.Response(status=HTTPStatus.NO_CONTENT)
        self._metrics.reports.labels(str(response.status)).inc()
        return response

    async def _accept(self, request: web.Request) -> None:
        identity = await self._identify(request.headers.get("Authorization", ""))
        report = _parse(await _body(request))
        run = self._board.run(report.run_uid)
        if run is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"run {report.run_uid} is not followed by this operator")
        if not is_pod_of(identity, run, report.stage, report.attempt):
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                f"the token is of pod {identity.namespace}/{identity.pod_name or '(none)'}, which is not part of "
                f"attempt {report.attempt} of stage {report.stage} of {run.namespace}/{run.name}",
            )
        if not self._board.put(report):
            raise Refusal(HTTPStatus.CONFLICT, "a newer report of this stage is known")

    async def _identify(self, header: str) -> TokenIdentity:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refusal(HTTPStatus.UNAUTHORIZED, "a bearer token is required")
        try:
            identity = await self._reviewer.identity(token.strip())
        except KubernetesError as error:
            logger.warning("a trainer's token cannot be reviewed: %s", error)
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the token cannot be reviewed now: {error.reason or error.code}"
            ) from error
        if identity is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, f"the token is not valid for audience {TOKEN_AUDIENCE}")
        return identity


def is_pod_of(identity: TokenIdentity, run: RunIdentity, stage: str, attempt: int) -> bool:
    """Whether a token's pod is one of an attempt's workers, by namespace and by the name that only the job gives."""
    name = f"{re.escape(job_name(run.name, stage, attempt))}-worker-[0-9]+"
    return identity.namespace == run.namespace and re.fullmatch(name, identity.pod_name) is not None


@asynccontextmanager
async def serve_progress(settings: ProgressSettings, endpoint: ProgressEndpoint) -> AsyncIterator[int]:
    """Serve the endpoint by HTTPS while the context lasts; certificates are read again when their files change.

    Yields:
        the TCP port that is listened on (of interest where the settings say 0).

    Raises:
        OSError, ssl.SSLError: certificate or key cannot be read, or the address cannot be listened on.
    """
    if settings.certificate_file is None or settings.key_file is None:
        raise ValueError("the progress endpoint needs a certificate and its key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.certificate_file, settings.key_file)
    renewal = asyncio.create_task(_renew(context, settings.certificate_file, settings.key_file), name="certificate")
    try:
        async with listen(endpoint.application(), settings.host, settings.port, ssl_context=context) as port:
            yield port
    finally:
        renewal.cancel()


async def _renew(context: ssl.SSLContext, certificate: Path, key: Path, every_seconds: float = 60.0) -> None:
    loaded = _modified(certificate)
    while True:
        await asyncio.sleep(every_seconds)
        try:
            if (modified := _modified(certificate)) != loaded:
                context.load_cert_chain(certificate, key)
                loaded = modified
        except (OSError, ssl.SSLError) as error:
            logger.error("The renewed certificate %s cannot be used, the old one stays: %s", certificate, error)


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the report is too large") from error


def _parse(payload: bytes) -> ProgressReport:
    try:
        return ProgressReport.from_bytes(payload)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'document'}: {fault['type']}" for fault in error.errors()]
        raise Refusal(HTTPStatus.BAD_REQUEST, f"this is no progress report: {'; '.join(faults[:5])}") from error


def _refused(refusal: Refusal) -> web.Response:
    headers = {HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"}}.get(refusal.status, {})
    return web.Response(
        status=refusal.status, headers=headers, body=json.dumps({"error": str(refusal)}).encode(),
        content_type="application/json",
    )  # fmt: skip
