"""A real HTTP server on loopback that speaks /v1/chat/completions, and misbehaves as it is told."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from aiohttp import web


class Asked(NamedTuple):
    """One request: when it came by the server's clock, its body, and its Authorization header."""

    at: float
    body: dict[str, Any]
    authorization: str

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"]

    @property
    def conversation(self) -> str:
        return self.body["messages"][1]["content"]


class Answer(NamedTuple):
    """What the server gives back: a judge's text, or with another status an error."""

    text: str = '{"score": 9, "reason": "fine"}'
    status: int = 200
    headers: dict[str, str] = {}
    delay: float = 0.0
    raw: bytes | None = None


Behaviour = Callable[[Asked, int], Answer]


def good(asked: Asked, number: int) -> Answer:
    """A judge that likes everything."""
    return Answer()


class JudgeServer:
    """Counts what it is asked; `behaviour` gets each request and its 0-based number."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = good
        self.asked: list[Asked] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        asked = Asked(time.monotonic(), await request.json(), request.headers.get("Authorization", ""))
        self.asked.append(asked)
        answer = self.behaviour(asked, len(self.asked) - 1)
        await asyncio.sleep(answer.delay)
        if answer.raw is not None:
            return web.Response(body=answer.raw, status=answer.status, content_type="application/json")
        if answer.status != 200:
            body: dict[str, Any] = {"error": {"message": answer.text, "type": "error", "code": None}}
            return web.json_response(body, status=answer.status, headers=answer.headers)
        message = {"role": "assistant", "content": answer.text}
        return web.json_response(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": asked.body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            }
        )


@contextmanager
def running() -> Iterator[JudgeServer]:
    """The server in a thread of its own, on a free port of loopback."""
    server, loop, started = JudgeServer(), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", server.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}/v1"
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, name="judge")
    thread.start()
    assert started.wait(20)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)


def as_body(text: str) -> bytes:
    """A text as a JSON document."""
    return json.dumps(text).encode()
