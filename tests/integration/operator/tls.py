"""A private S3 endpoint: TLS in front of a server that speaks none, with a certificate of a private authority."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from hack.cluster.certs import Authority

HOST = "localhost"


@contextlib.contextmanager
def in_front_of(endpoint: str, authority: Authority, folder: Path) -> Iterator[str]:
    """The https:// URL of a proxy that passes on every byte, for the time of a `with` block."""
    authority.issue("s3", hosts=[HOST]).write(folder, "s3")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "s3.crt", folder / "s3.key")
    loop, target = asyncio.new_event_loop(), urlsplit(endpoint)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(_pass_on(reader, behind_writer), _pass_on(behind_reader, writer))

    server = loop.run_until_complete(asyncio.start_server(serve, HOST, 0, ssl=context, family=socket.AF_INET))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"https://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(65536):
            sink.write(chunk)
            await sink.drain()
    sink.close()
