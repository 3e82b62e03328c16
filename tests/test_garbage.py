"""The law that a request leaves nothing to the garbage collector: what it looks through, everybody waits for."""

import asyncio
import gc
import json

import pytest
from starlette.types import Message

from llamahost.api.app import App, create_app
from tests.hosted import host_of
from tests.on_loop import on_loop, turns

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


async def ask(app: App, path: str, body: dict[str, object]) -> bytes:
    """As a server asks, whose client stays until it has all."""
    told, is_whole = bytearray(), asyncio.Event()
    given: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive() -> Message:
        if not given:
            await is_whole.wait()
        return given.pop() if given else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        told.extend(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            is_whole.set()

    head = {"path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": []}
    await app({"type": "http", "method": "POST", **head}, receive, send)
    return bytes(told)


@pytest.mark.parametrize("body", [CHAT, {**CHAT, "stream": True}, {**CHAT, "n": 3, "stream": True}])
@on_loop
async def test_a_request_leaves_nothing_to_the_garbage_collector(body: dict[str, object]) -> None:
    async with host_of() as (host, _):
        app = create_app(host)
        for _ in range(3):  # what is made once is made
            assert b"finish_reason" in await ask(app, "/v1/chat/completions", body)
        await turns()
        gc.collect()
        gc.disable()
        try:
            await ask(app, "/v1/chat/completions", body)
            await turns()
            assert gc.collect() == 0
        finally:
            gc.enable()
