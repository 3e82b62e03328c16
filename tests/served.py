"""A host behind a real socket, asked with raw bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from llamahost.api.app import create_app
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.host import AsyncHost
from tests.api.sockets import listening
from tests.on_loop import turns

MAX_BODY = 2**18
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


def post(path: str, body: bytes, headers: bytes = b"") -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (path.encode(), headers, len(body))
    return head + body


@asynccontextmanager
async def serving(host: AsyncHost, **settings: Any) -> AsyncIterator[int]:
    async with listening(create_app(host, ServerSettings(max_body_bytes=MAX_BODY, **settings))) as port:
        await host.wait_ready()
        yield port


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


async def answer_of(reader: asyncio.StreamReader) -> Answer:
    """The next answer; 100 Continue is passed over."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split()[1])
    if status == 100:
        return await answer_of(reader)
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Answer(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))


async def asked(port: int, *sent: bytes) -> list[Answer]:
    """Answers to these, one after the other on one connection; on a new one where the server has closed it."""
    found: list[Answer] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for data in sent:
        writer.write(data)
        found.append(await answer_of(reader))
        if found[-1].headers.get("connection") == "close":
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return found


def taken(host: AsyncHost) -> int:
    """Slots, waiting jobs and requests under way, of all models together."""
    n = 0
    for model in host.models():
        assert model.stats is not None
        n += model.n_in_flight + model.stats.n_running + model.stats.n_waiting
    return n


async def until_free(host: AsyncHost) -> None:
    while taken(host):
        await turns(1)
