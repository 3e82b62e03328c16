"""What is long is sent a slice a turn, whatever it is made of; what is short is one response with its length."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

from starlette.types import Message

from llamahost.api.openai import ListModels
from llamahost.api.slices import SLICE_S, listed, send_slices
from llamahost.fleet.settings.route_spec import RouteSpec
from tests.api.fakes import READY, FakeHost
from tests.on_loop import on_loop


@on_loop
async def test_others_run_between_two_slices_and_no_more_is_made_than_was_sent() -> None:
    ticks, sent, made, turns = itertools.count(step=0.75 * SLICE_S), [], [], [0]

    def pieces() -> Iterator[bytes]:
        for k in range(10):
            made.append(k)
            yield b"%d" % k

    async def send(message: Message) -> None:
        sent.append(message)
        if "body" in message:
            assert b"".join(each.get("body", b"") for each in sent) == b"".join(b"%d" % k for k in made)

    async def other() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    await send_slices(send, pieces(), b"text/plain", clock=lambda: next(ticks))  # two pieces a slice
    running.cancel()
    await asyncio.wait((running,))
    assert sent[0]["headers"] == [(b"content-type", b"text/plain")]
    assert [each["body"] for each in sent[1:]] == [b"01", b"23", b"45", b"67", b"89", b""]
    assert [each["more_body"] for each in sent[1:]] == [True] * 5 + [False]
    assert turns[0] >= 5


@on_loop
async def test_what_fits_into_one_slice_has_its_length() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    for items in ([], [b"1"], [b"1", b"{}"]):
        sent.clear()
        await send_slices(send, listed(b'{"a":[', items), b"application/json", clock=lambda: 0.0)
        head, body = sent
        assert (b"content-length", b"%d" % len(body["body"])) in head["headers"]
        assert json.loads(body["body"]) == {"a": [json.loads(item) for item in items]}


@on_loop
async def test_routes_that_come_between_two_slices_are_not_mixed_with_the_models_before() -> None:
    host = FakeHost(statuses=tuple(replace(READY, name=f"m{k}") for k in range(2000)))  # far more than a slice
    body = bytearray()

    async def send(message: Message) -> None:
        body.extend(message.get("body", b""))
        host.known_routes = (RouteSpec(name="new", models=("come",)),)

    async def receive() -> Message:
        raise AssertionError("there is no body to be read")

    await ListModels(host, created=0)({"type": "http", "method": "GET", "headers": []}, receive, send)
    assert [each["id"] for each in json.loads(body)["data"]] == [f"m{k}" for k in range(2000)]
