"""The application on a real uvicorn socket, in the test's own loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from llamahost.api.app import App
from llamahost.api.http1 import Http1
from llamahost.api.server import bind


@asynccontextmanager
async def listening(app: App) -> AsyncIterator[int]:
    """The port; the server is told to stop, and waited for, at the end."""
    place = bind("127.0.0.1", 0)
    port: int = place.getsockname()[1]
    begun = asyncio.Event()
    app.on_start = begun.set
    config = uvicorn.Config(
        app, http=Http1, ws="none", lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[place]))
    await begun.wait()
    try:
        yield port
    finally:
        server.should_exit = True
        await serving


class Client:
    """A connection that sends what it is told to, whole or not, and can vanish."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @staticmethod
    async def open(port: int, limit: int = 2**16) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", port, limit=limit))

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
