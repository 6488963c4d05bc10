"""A proxy between an S3 client and a real S3 server that makes happen what a plan says, and writes down all of it."""

import asyncio
import io
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from html import unescape
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote_plus

import aiohttp
from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from multidict import CIMultiDict
from yarl import URL

from tests.integration.faults.plan import Call, Fault, Operation, Plan, Strike

SHORTEST_DELAY, LONGEST_DELAY = 0.05, 0.3
"""Seconds of a slow request."""

_REFUSALS = {
    Fault.UNAVAILABLE: (503, "Slow Down", "SlowDown", "Please reduce your request rate."),
    Fault.INTERNAL: (500, "Internal Server Error", "InternalError", "We encountered an internal error."),
    Fault.PRECONDITION_FAILED: (
        412,
        "Precondition Failed",
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
    ),
    Fault.CONFLICT: (
        409,
        "Conflict",
        "ConditionalRequestConflict",
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    ),
}
# The proxy has read the body when it forwards it, and each side of it has connections of its own.
_HOP_BY_HOP = ("Connection", "Expect", "Keep-Alive", "Transfer-Encoding")
_OF_SIGNATURE = ("authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token")
_OF_CHECKSUM = ("content-md5", "x-amz-checksum-", "x-amz-sdk-checksum-algorithm", "x-amz-trailer")
_LARGEST_HEADER = 64 * 1024
_PATIENCE = 60
"""Seconds that the proxy waits for its own start and end."""
_GRACE = 0.1
"""Seconds that requests under way get at the end of the block; aiohttp takes 0 for ever."""


@dataclass(frozen=True)
class Record:
    """One request and what became of it.

    Attributes:
        operation: what was asked.
        key: of what; the prefix of a listing.
        part: the number of an uploaded part.
        range: the header Range.
        status: what the client was answered; None: the connection ended without an answer.
        fault: what happened to it. None also where a fault found nothing to change, as in an answer without a body.
        forwarded: what the store answered: nothing where it was not asked, two numbers for a duplicate.
        sent: bytes of the body that the client sent.
        received: bytes of the body that the client got.
    """

    operation: Operation
    key: str
    part: int | None
    range: str | None
    status: int | None
    fault: Fault | None
    forwarded: tuple[int, ...]
    sent: int
    received: int


@dataclass(frozen=True)
class _Request:
    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


@dataclass(frozen=True)
class _Answer:
    """`cut`: after how many bytes of the body the connection ends; None: it does not."""

    status: int
    reason: str
    headers: CIMultiDict[str]
    body: bytes
    cut: int | None = None


class _StoreLostError(Exception):
    """The store gave no answer. No error of aiohttp, whose client would send an idempotent request again by itself."""


class FaultProxy:
    """An S3 endpoint on loopback that forwards to another one, for the time of a `with` block.

    Requests and answers pass unchanged, the header Host included, which signatures cover; a client signs for the
    proxy and the store does not notice. Faults are the plan's. Buckets are addressed by path.

    Args:
        upstream: the store's endpoint, `http://host:port`.
        plan: what happens to which request.
        access_key, secret_key: with these the proxy signs anew what it stores truncated; nothing else needs them.
        region: of these signatures.
        stale_keys: how many of the newest keys below its prefix a stale list leaves out. Newest are those that were
            first written through this proxy last. A list with a delimiter keeps their common prefixes.

    Raises:
        ValueError: the plan stores truncated bodies, and there are no keys to sign them.

    What goes wrong in the proxy or the plan itself is answered with 500 and raised again at the end of the block,
    where no other error is on its way. A store that does not answer is a connection that ends, and no such error.
    """

    def __init__(
        self,
        upstream: str,
        plan: Plan,
        *,
        access_key: str = "",
        secret_key: str = "",
        region: str = "us-east-1",
        stale_keys: int = 1,
    ) -> None:
        if Fault.TRUNCATED_STORED in plan.faults and not (access_key and secret_key):
            raise ValueError(f"the plan has {Fault.TRUNCATED_STORED}: give FaultProxy an access_key and a secret_key")
        self._upstream, self._plan, self._stale_keys = upstream.rstrip("/"), plan, stale_keys
        self._signer = S3SigV4Auth(Credentials(access_key, secret_key), "s3", region)
        # Insertion is first writing; a dictionary is an ordered set.
        self._written: dict[str, None] = {}
        self._errors: list[Exception] = []
        self._endpoint: Future[str] = Future()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fault-proxy")
        self.log: list[Record] = []
        """All requests that came whole, in the order of their answers; one that is answered is already in it."""

    @property
    def endpoint(self) -> str:
        """Where clients go, `http://127.0.0.1:port`; known within the block."""
        return self._endpoint.result(_PATIENCE)

    @property
    def faults(self) -> Counter[Fault]:
        """What has happened, and how often."""
        return Counter(record.fault for record in list(self.log) if record.fault is not None)

    def __enter__(self) -> Self:
        self._served = self._pool.submit(lambda: asyncio.run(self._serve()))
        either: set[Future[Any]] = {self._served, self._endpoint}
        wait(either, _PATIENCE, FIRST_COMPLETED)
        if self._served.done():
            self._served.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._served.result(_PATIENCE)
        self._pool.shutdown()
        if error is None and self._errors:
            raise ExceptionGroup("the fault proxy failed", self._errors)

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = web.Server(
            self._handle,
            access_log=None,
            auto_decompress=False,
            max_line_size=_LARGEST_HEADER,
            max_field_size=_LARGEST_HEADER,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_GRACE)
        await runner.setup()
        async with _client() as self._session:
            try:
                await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
                self._endpoint.set_result("http://{}:{}".format(*runner.addresses[0][:2]))
                await self._ended.wait()
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answered(request)
        except (ConnectionError, web.RequestPayloadError):
            # The client has gone away, which some tests make it do: nobody gets this.
            return web.Response()
        except Exception as error:
            self._errors.append(error)
            raise

    async def _answered(self, incoming: web.BaseRequest) -> web.StreamResponse:
        request = await _read(incoming)
        call = Call.of(request.method, request.target, request.headers, len(request.body))
        strike = self._plan.decide(call)
        statuses: list[int] = []

        async def forward(request: _Request) -> _Answer:
            answer = await self._ask(request)
            statuses.append(answer.status)
            self._remember(call, answer)
            return answer

        try:
            answer, fault = await self._outcome(strike, call, request, forward)
        except _StoreLostError:
            answer, fault = None, None
        self.log.append(_record(call, fault, statuses, answer))
        return await _send(incoming, answer)

    async def _outcome(
        self, strike: Strike | None, call: Call, request: _Request, forward: Callable[[_Request], Awaitable[_Answer]]
    ) -> tuple[_Answer | None, Fault | None]:
        """What the client is answered (None: nothing), and what has happened to it."""
        if strike is None:
            return await forward(request), None
        fault = strike.fault
        if fault is Fault.DROP_REQUEST:
            return None, fault
        if fault in _REFUSALS:
            return _refusal(fault), fault
        if fault is Fault.SLOW:
            await asyncio.sleep(SHORTEST_DELAY + strike.where * (LONGEST_DELAY - SHORTEST_DELAY))
        if fault is Fault.DUPLICATE:
            await forward(request)
        if fault in (Fault.TRUNCATED_PART, Fault.TRUNCATED_STORED):
            request = _halved(request)
        if fault is Fault.TRUNCATED_STORED:
            request = self._signed(request)
        answer = await forward(request)
        if fault is Fault.DROP_ANSWER:
            return None, fault
        if fault is Fault.STALE_LIST:
            return _changed(answer, _without_keys(answer, self._newest(call.key)), fault)
        if fault in (Fault.CORRUPT_READ, Fault.TRUNCATED_READ):
            return _changed(answer, _damaged(answer, strike), fault)
        return answer, fault

    async def _ask(self, request: _Request) -> _Answer:
        """The store's answer to a request."""
        try:
            async with self._session.request(
                request.method,
                # The path is what was signed: encoded as the client did it, with its dots and double slashes.
                URL(self._upstream + request.target, encoded=True),
                headers=request.headers,
                data=io.BytesIO(request.body) if request.body else None,
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
        except aiohttp.ClientError as error:
            raise _StoreLostError(str(error)) from error
        headers = CIMultiDict(answer.headers)
        for name in _HOP_BY_HOP:
            headers.popall(name, None)
        return _Answer(answer.status, answer.reason or "", headers, body)

    def _signed(self, request: _Request) -> _Request:
        """The same request under the proxy's signature, without checksums of the body."""
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _OF_SIGNATURE and not name.lower().startswith(_OF_CHECKSUM)
        }
        signed = AWSRequest(request.method, self._upstream + request.target, headers, request.body)
        self._signer.add_auth(signed)
        return replace(request, headers=CIMultiDict(signed.headers.items()))

    def _remember(self, call: Call, answer: _Answer) -> None:
        if answer.status >= 300:
            return
        if call.operation in (Operation.PUT_OBJECT, Operation.COMPLETE_MULTIPART_UPLOAD):
            self._written.setdefault(call.key)
        if call.operation is Operation.DELETE_OBJECT:
            self._written.pop(call.key, None)

    def _newest(self, prefix: str) -> frozenset[str]:
        below = [key for key in self._written if key.startswith(prefix)]
        return frozenset(below[-self._stale_keys :])


def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        middlewares=(_send_once,),
        max_line_size=_LARGEST_HEADER,
        max_field_size=_LARGEST_HEADER,
    )


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a PUT again after a lost connection: a duplicate that no plan has asked for."""
    try:
        return await handler(request)
    except aiohttp.ClientError as error:
        raise _StoreLostError(str(error)) from error


async def _read(incoming: web.BaseRequest) -> _Request:
    if incoming.headers.get("Expect", "").lower() == "100-continue" and incoming.transport is not None:
        incoming.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await incoming.content.read()
    headers = CIMultiDict(incoming.headers)
    for name in _HOP_BY_HOP:
        headers.popall(name, None)
    if body:
        # A body in chunks came without.
        headers["Content-Length"] = str(len(body))
    return _Request(incoming.method, incoming.raw_path, headers, body)


async def _send(incoming: web.BaseRequest, answer: _Answer | None) -> web.StreamResponse:
    if answer is None:
        if incoming.transport is not None:
            incoming.transport.abort()
        # aiohttp wants something to send, and finds that it cannot.
        return web.Response()
    outgoing = web.StreamResponse(status=answer.status, reason=answer.reason, headers=answer.headers)
    await outgoing.prepare(incoming)
    if answer.body and incoming.method != "HEAD":
        await outgoing.write(answer.body[: answer.cut])
    if answer.cut is not None and incoming.transport is not None:
        # Sends what is in its buffer first; the rest of what Content-Length promises never comes.
        incoming.transport.close()
    return outgoing


def _record(call: Call, fault: Fault | None, statuses: list[int], answer: _Answer | None) -> Record:
    return Record(
        operation=call.operation,
        key=call.key,
        part=call.part,
        range=call.range,
        status=answer.status if answer else None,
        fault=fault,
        forwarded=tuple(statuses),
        sent=call.size,
        received=len(answer.body[: answer.cut]) if answer else 0,
    )


def _refusal(fault: Fault) -> _Answer:
    status, reason, code, message = _REFUSALS[fault]
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>fault-proxy</RequestId></Error>"
    ).encode()
    headers = CIMultiDict({"Content-Type": "application/xml", "Server": "fault-proxy"})
    return _with_body(_Answer(status, reason, headers, b""), body)


def _halved(request: _Request) -> _Request:
    return _with_body(request, request.body[: len(request.body) // 2])


def _damaged(answer: _Answer, strike: Strike) -> _Answer:
    """The answer with a flipped bit or a cut; the same where it holds nothing of an object."""
    if answer.status not in (200, 206) or not answer.body:
        return answer
    if strike.fault is Fault.TRUNCATED_READ:
        return replace(answer, cut=int(strike.where * len(answer.body)))
    byte, bit = divmod(int(strike.where * len(answer.body) * 8), 8)
    body = bytearray(answer.body)
    body[byte] ^= 1 << bit
    return replace(answer, body=bytes(body))


def _without_keys(answer: _Answer, keys: frozenset[str]) -> _Answer:
    """The listing without these keys, all other bytes of it as they were; the same where it has none of them."""
    if answer.status != 200:
        return answer
    encoded = b"<EncodingType>url</EncodingType>" in answer.body
    left_out = 0

    def kept(entry: re.Match[bytes]) -> bytes:
        nonlocal left_out
        key = unescape(entry["key"].decode())
        if (unquote_plus(key) if encoded else key) not in keys:
            return entry[0]
        left_out += 1
        return b""

    body = re.sub(rb"<Contents>.*?<Key>(?P<key>.*?)</Key>.*?</Contents>", kept, answer.body, flags=re.DOTALL)
    if not left_out:
        return answer
    body = re.sub(
        rb"<KeyCount>(\d+)</KeyCount>", lambda count: b"<KeyCount>%d</KeyCount>" % (int(count[1]) - left_out), body
    )
    return _with_body(answer, body)


def _with_body[Message: (_Request, _Answer)](message: Message, body: bytes) -> Message:
    headers = CIMultiDict(message.headers)
    headers["Content-Length"] = str(len(body))
    return replace(message, headers=headers, body=body)


def _changed(before: _Answer, after: _Answer, fault: Fault) -> tuple[_Answer, Fault | None]:
    return after, None if after is before else fault
