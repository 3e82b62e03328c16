"""The application on a real uvicorn socket, in the test's own loop."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn

from llamahost.api.app import App
from llamahost.api.http1 import Http1
from llamahost.api.server import bind


class Port(int):
    """Of a server that listens, with the connections that it has."""

    server: uvicorn.Server

    def __new__(cls, number: int, server: uvicorn.Server) -> Port:
        port = super().__new__(cls, number)
        port.server = server
        return port

    async def left(self) -> None:
        """Wait until it has no connection."""
        while self.server.server_state.connections:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.001)


@asynccontextmanager
async def listening(
    app: App,
    *,
    stall_s: float = 60.0,
    keep_alive_s: float = 5.0,
    n_files: int = 2**16,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Port]:
    """The port. uvicorn's protocol and lifespan without its main loop, which looks only every 0.1 s whether to end."""
    place = bind("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        http=partial(Http1, stall_s=lambda: stall_s, n_files=n_files),  # type: ignore[arg-type]  # it is called
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        ssl_context_factory=None if tls is None else lambda config, default: tls,
        timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]  # a part of a second
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    try:
        await server.startup(sockets=[place])
    except SystemExit:  # the application failed to start, and has logged why
        place.close()
        raise
    await server.on_tick(0)  # which sets the headers of every answer
    try:
        yield Port(place.getsockname()[1], server)
    finally:
        await _ended(server)


async def _ended(server: uvicorn.Server) -> None:
    """What runs has a second to end, as a connection with its answer, and is cancelled then."""
    state = server.server_state
    for place in server.servers:
        place.close()
    for connection in list(state.connections):
        connection.shutdown()
    try:
        async with asyncio.timeout(1):
            while state.connections or state.tasks:  # noqa: ASYNC110  uvicorn has no event for it
                await asyncio.sleep(0.001)
    except TimeoutError:
        for task in list(state.tasks):
            task.cancel()
    await server.lifespan.shutdown()


class Client:
    """A connection that sends what it is told to, whole or not, and can vanish."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @staticmethod
    async def open(port: int, limit: int = 2**16, tls: ssl.SSLContext | None = None) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", port, limit=limit, ssl=tls))

    def post(self, path: str, body: Any, *, missing: int = 0, headers: str = "") -> None:
        """Send a request, less the last `missing` bytes of its body."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data[: len(data) - missing])

    async def until(self, mark: bytes) -> bytes:
        return await self.reader.readuntil(mark)

    def vanish(self) -> None:
        """Close at once, with a reset where data is unread."""
        self.writer.transport.abort()
