"""Who begins to ask, or to read, and does not go on, is not waited for without end; who goes on slowly is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import selectors
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from llamahost.api.body import ClientGone, read_body
from llamahost.api.feed import AsIs
from llamahost.api.http1 import Http1
from llamahost.api.patience import Passage
from llamahost.api.problems import BodyTooSlow
from llamahost.api.server import Runner
from llamahost.api.sse import EventStream
from llamahost.core.events import Delta, Started
from llamahost.fleet.settings.manifest import ServerSettings
from tests.api.asking import ASK
from tests.api.fakes import FakeHost, app_of, run, said
from tests.api.sockets import Client, listening
from tests.on_loop import LIMIT_S

CHAT = "/v1/chat/completions"
STALL_S = 0.1  # the least that a server can be told
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("every_s", "n_bytes", "ends_s"),
    [
        (59.0, 1, 60.0),
        (1.0, 10, 62.6),
        (1.0, 200, 360.0),
        (59.0, 59 * 240, None),
        (1.0, 240, None),
        (5.0, 10_000, None),
    ],
    ids=["a byte now and then", "ten a second", "a little too slow", "in lumps", "just so", "a bad line"],
)
def test_what_trickles_is_bounded_and_what_is_slow_but_steady_is_not(
    every_s: float, n_bytes: int, ends_s: float | None
) -> None:
    now, passage = 0.0, Passage(0.0)
    while now + every_s < passage.ends(60.0) and now < 7200.0:
        now += every_s
        passage.moved(n_bytes, now)
    assert (now < 7200.0) == (ends_s is not None)
    if ends_s is not None:
        assert passage.ends(60.0) == pytest.approx(ends_s, rel=0.02)


def test_who_moved_much_has_no_more_patience_than_others_once_nothing_moves() -> None:
    passage = Passage(0.0)
    passage.moved(64 * 2**20, 1.0)
    assert passage.ends(60.0) == 61.0


class _NoWaiting(selectors.DefaultSelector):
    """Nothing is waited for: it is later at once."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.skipped_s += timeout or 0.0
        return super().select(0)


class _ClockedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.skipped_s


def read_after(pieces: list[tuple[float, bytes]]) -> tuple[bytes | None, float]:
    """The body of which each piece comes so many seconds after the one before, or None; and when that is known."""

    async def reading() -> tuple[bytes | None, float]:
        coming = iter(pieces)

        async def receive() -> Any:
            seconds, piece = next(coming, (math.inf, b""))
            if seconds == math.inf:
                await asyncio.Event().wait()
            await asyncio.sleep(seconds)  # of this loop's time, which is none
            return {"type": "http.request", "body": piece, "more_body": piece != b"."}

        scope = {"type": "http", "headers": []}
        try:
            body: bytes | None = await read_body(scope, receive, 2**20, 60.0)
        except BodyTooSlow:
            body = None
        return body, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=_ClockedLoop) as runner:
        return runner.run(reading())


@pytest.mark.parametrize(
    ("pieces", "ends_s"),
    [
        ([], 60.0),
        ([(30.0, b"{")], 60.0 + 1 / 240),
        ([(1.0, b"x" * 48_000)], 61.0),
        ([(20.0, b"x")] * 9, 60.0 + 2 / 240),
    ],
    ids=["nothing", "a byte", "much, then nothing", "a byte now and then"],
)
def test_a_body_that_does_not_go_on_is_waited_for_a_minute(pieces: list[tuple[float, bytes]], ends_s: float) -> None:
    body, at = read_after(pieces)
    assert body is None
    assert at == pytest.approx(ends_s, abs=0.01)


def test_a_body_that_takes_an_hour_over_a_bad_line_is_read() -> None:
    body, at = read_after([(50.0, b"x" * 13_000)] * 72 + [(50.0, b".")])
    assert (len(body or b""), at) == (72 * 13_000 + 1, 3650.0)


@pytest.mark.parametrize(("every_s", "is_whole"), [(50.0, True), (80.0, False)], ids=["slowly", "no more"])
def test_an_event_that_takes_long_is_sent_as_long_as_its_client_reads(every_s: float, is_whole: bool) -> None:
    event, told = bytes(range(256)) * 1024, bytearray()

    async def events() -> AsyncGenerator[bytes, None]:
        yield event
        yield b"."

    async def send(message: Any) -> None:
        body = message.get("body", b"")
        told.extend(body)
        await asyncio.sleep(every_s * len(body) / 2**14)  # of this loop's time, which is none

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def sending() -> None:
        await EventStream(events(), AsIs(), ping_s=15.0, stall_s=60.0)(receive, send)

    with asyncio.Runner(loop_factory=_ClockedLoop) as runner, contextlib.suppress(ClientGone):
        runner.run(sending())
    assert (bytes(told) == event + b"." + AsIs().end()) == is_whole


def law(body: Callable[[FakeHost, Client], Awaitable[None]], keep_alive_s: float = 60.0) -> None:
    """Of a server that waits for 0.1 s, the least that it can be told, or for `keep_alive_s` where nothing is asked."""

    async def served() -> None:
        host = FakeHost(said("Hello"))
        app = app_of(host, stall_s=STALL_S)
        async with listening(app, stall_s=STALL_S, keep_alive_s=keep_alive_s) as port:
            client = await Client.open(port, limit=1024)
            try:
                await body(host, client)
            finally:
                client.vanish()
            assert await app.gate.empty(LIMIT_S)

    run(served)


@pytest.mark.parametrize(
    "sent",
    [HEAD, HEAD[:30], HEAD + "Content-Length: 99\r\n\r\n{", HEAD + "Transfer-Encoding: chunked\r\n\r\n9\r\n{"],
    ids=["half a head", "a line", "half a body", "half a chunk"],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "behind another"])
def test_half_a_request_is_answered_in_json_and_its_connection_closed(sent: str, is_first: bool) -> None:
    async def body(host: FakeHost, client: Client) -> None:
        if not is_first:
            client.post(CHAT, ASK)
            await client.until(b"predicted_per_second")
        client.writer.write(sent.encode())
        answer = (await client.reader.read()).rpartition(b"HTTP/1.1 ")[2]
        head, _, told = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"408 ")
        assert b"connection: close" in head
        error = json.loads(told)["error"]
        assert "stall_s" in error["message"]
        assert (error["type"], error["code"]) == ("timeout_error", "request_timeout")
        assert len(host.requests) == (not is_first)

    law(body)


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n\r\n"])
def test_a_connection_on_which_nothing_is_asked_is_closed(sent: bytes) -> None:
    async def body(host: FakeHost, client: Client) -> None:
        client.writer.write(sent)
        answer = await client.reader.read()
        assert answer.startswith(b"HTTP/1.1 200") == (len(sent) > 2)
        assert b"408" not in answer

    law(body, keep_alive_s=0.1)


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for() -> None:
    async def body(host: FakeHost, client: Client) -> None:
        client.writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        assert (await client.reader.read()).startswith(b"HTTP/1.1 404")

    law(body)


@pytest.mark.parametrize("is_half", [True, False], ids=["half a body", "an answer that nobody reads"])
def test_a_client_that_does_nothing_does_not_hold_up_the_end(is_half: bool) -> None:
    async def served() -> None:
        host = FakeHost([Started(0, "tiny", 1, 0), *[Delta(0, "x" * 2**18, n_tokens=1)] * 32, *said("")[-1:]])
        app, settings = app_of(host), ServerSettings(drain_s=LIMIT_S if is_half else 0.1)
        async with listening(app) as port:
            with socket.socket() as place:
                runner = Runner(host, place, settings=settings, on_start=host.start, flush_s=0.1)
            runner._app, runner._server = app, port.server
            client = await Client.open(port, limit=1024)
            if is_half:
                client.post(CHAT, ASK, missing=5, headers="Expect: 100-continue\r\n")
                await client.until(b"100 Continue\r\n\r\n")
            else:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # the transport is two-way
                client.post(CHAT, {**ASK, "stream": True})
                (connection,) = port.server.server_state.connections
                assert isinstance(connection, Http1)
                while not connection.flow.write_paused:  # noqa: ASYNC110  nobody tells it
                    await asyncio.sleep(0)
            await runner._drain()
            assert app.gate.n_inside == 0
            if is_half:
                answer = await client.reader.read()
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"shutting down" in answer
                assert b"\r\nretry-after: 5\r\n" in answer
            client.vanish()

    run(served)


@pytest.mark.parametrize("n_asked", [1, 2], ids=["one", "with another behind it"])
@pytest.mark.parametrize("headers", ["", "Connection: close\r\n"], ids=["kept", "to be closed"])
def test_a_whole_answer_that_nobody_reads_is_dropped(n_asked: int, headers: str) -> None:
    async def served() -> None:
        host = FakeHost([Started(0, "tiny", 1, 0), *[Delta(0, "x" * 2**18, n_tokens=1)] * 32, *said("")[-1:]])
        async with listening(app_of(host), stall_s=STALL_S) as port:
            client = await Client.open(port, limit=1024)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # the transport is two-way
            for _ in range(n_asked):
                client.post(CHAT, ASK, headers=headers)
            await host.closed.wait()
            await port.left()
            client.vanish()

    run(served)
