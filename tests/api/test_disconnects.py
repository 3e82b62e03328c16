"""A client that leaves is noticed at once, whatever its request is doing, and what it asked for is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import chain, cycle
from typing import Any

import pytest

from llamahost.api.feed import AsIs
from llamahost.api.sse import PING, EventStream, while_connected
from llamahost.core.errors import InvalidRequest
from llamahost.core.events import Delta, Started
from tests.api.fakes import FakeHost, Step, app_of, run, said
from tests.api.sockets import Client, listening
from tests.on_loop import LIMIT_S

PING_S = 0.005
CHAT = "/v1/chat/completions"


def ask(stream: bool) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], "stream": stream}


async def for_ever() -> None:
    await asyncio.Event().wait()


BEFORE: list[Step] = [for_ever]
AFTER_FIRST: list[Step] = [Started(0, "tiny", 1, 0), for_ever]
MIDWAY: list[Step] = [*said("some", "text")[:3], for_ever]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("script", [BEFORE, AFTER_FIRST, MIDWAY], ids=["silent", "after-first", "midway"])
def test_leaving_closes_the_generator(script: list[Step], stream: bool) -> None:
    async def law() -> None:
        host = FakeHost(list(script))
        app = app_of(host)
        async with listening(app) as port:
            client = await Client.open(port)
            client.post(CHAT, ask(stream))
            await host.waiting.wait()
            if stream and script is MIDWAY:
                await client.until(b'"text"')
            client.vanish()
            await host.closed.wait()
            assert await app.gate.empty(LIMIT_S)
        assert (host.n_open, host.n_cancelled) == (0, 1)

    run(law)


@pytest.mark.parametrize("is_later", [False, True], ids=["sent together", "sent later"])
def test_leaving_with_requests_unanswered_closes_the_generator_of_the_first_and_asks_no_other(is_later: bool) -> None:
    async def law() -> None:
        host = FakeHost([for_ever])
        app = app_of(host)
        async with listening(app) as port:
            client = await Client.open(port)
            client.post(CHAT, ask(False))
            if is_later:
                await host.waiting.wait()
            client.post(CHAT, ask(False))
            await host.waiting.wait()
            await client.writer.drain()
            client.vanish()
            await host.closed.wait()
            assert await app.gate.empty(LIMIT_S)
        assert (len(host.requests), host.n_cancelled) == (1, 1)

    run(law)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_leaving_while_tokens_flow_closes_the_generator(stream: bool) -> None:
    async def turn() -> None:
        await asyncio.sleep(0)

    async def law() -> None:
        words: tuple[Step, Step] = (Delta(0, "word ", n_tokens=1), turn)
        host = FakeHost(chain([Started(0, "tiny", 1, 0)], cycle(words)))
        async with listening(app_of(host)) as port:
            client = await Client.open(port)
            client.post(CHAT, ask(stream))
            await host.waiting.wait()
            client.vanish()
            await host.closed.wait()
        assert (host.n_open, host.n_cancelled) == (0, 1)

    run(law)


def test_leaving_before_the_body_is_whole_asks_nothing() -> None:
    async def law() -> None:
        host = FakeHost()
        app = app_of(host)
        async with listening(app) as port:
            client = await Client.open(port)
            client.post(CHAT, ask(True), missing=5, headers="Expect: 100-continue\r\n")
            await client.until(b"100 Continue\r\n\r\n")  # it has begun to read the body
            client.vanish()
            assert await app.gate.empty(LIMIT_S)
        assert host.requests == []

    run(law)


def test_a_silent_stream_is_pinged_before_its_first_event() -> None:
    async def law() -> None:
        release = asyncio.Event()
        host = FakeHost([release.wait, *said("late")])
        async with listening(app_of(host, ping_s=0.1)) as port:
            client = await Client.open(port)
            client.post(CHAT, ask(True))
            head = await client.until(b": ping\n\n")
            assert head.startswith(b"HTTP/1.1 200")
            release.set()
            assert b'"late"' in await client.until(b"data: [DONE]\n\n")
            client.vanish()

    run(law)


def test_what_comes_while_a_ping_is_sent_follows_it() -> None:
    """A connection may be full before an answer begins, of the answer before."""

    async def law() -> None:
        is_sending = asyncio.Event()
        host = FakeHost([is_sending.wait, *said("late")])
        told: list[Any] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                is_sending.set()
                await turn_of(9)()
            told.append(message.get("body", message["type"]))

        await asked(host, send, ping_s=0.1)
        assert told[:2] == ["http.response.start", b": ping\n\n"]
        assert b'"late"' in b"".join(told[2:])

    run(law)


def test_an_error_after_a_ping_is_an_event() -> None:
    async def law() -> None:
        release = asyncio.Event()
        host = FakeHost([release.wait, RuntimeError("secret")])
        async with listening(app_of(host, ping_s=0.1)) as port:
            client = await Client.open(port)
            client.post(CHAT, ask(True))
            await client.until(b": ping\n\n")
            release.set()
            told = await client.until(b"0\r\n\r\n")
            assert b'data: {"error":' in told
            assert b"secret" not in told
            client.vanish()

    run(law)


def test_who_leaves_in_the_turn_in_which_his_answer_is_there_ends_nothing_but_himself() -> None:
    async def law() -> None:
        gone, done = asyncio.Event(), asyncio.Event()

        async def receive() -> Any:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def work() -> str:
            await done.wait()
            return "all of it"

        answering = asyncio.create_task(while_connected(receive, work()))
        await turn_of(3)()
        gone.set()
        done.set()
        assert await answering == "all of it"

    run(law)


def test_an_error_in_the_turn_in_which_a_ping_is_due_is_an_event_behind_it() -> None:
    async def law() -> None:
        told: list[Any] = []

        async def send(message: Any) -> None:
            told.append(message.get("body", message["type"]))

        async def receive() -> Any:
            await for_ever()

        async def failing() -> AsyncGenerator[bytes, None]:
            yield b""  # which shows nothing
            loop = asyncio.get_running_loop()
            due = loop.time() + PING_S
            while loop.time() <= due:
                pass
            await turn_of(2)()  # in the first it is due, in the second it would begin, after this
            raise InvalidRequest("no such thing")

        await EventStream(failing(), AsIs(), ping_s=PING_S)(receive, send)
        assert told[:2] == ["http.response.start", PING]
        assert told[-1] == AsIs().fail(InvalidRequest("no such thing"))

    run(law)


def test_a_client_that_never_reads_is_ended() -> None:
    async def law() -> None:
        flood: list[Step] = [Started(0, "tiny", 1, 0), *[Delta(0, "x" * 2**16, n_tokens=1)] * 1000]
        host = FakeHost(flood)
        app = app_of(host, ping_s=0.1, stall_s=0.1)
        async with listening(app) as port:
            client = await Client.open(port, limit=1)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined] # the transport is two-way
            client.post(CHAT, ask(True))
            await host.closed.wait()
            assert await app.gate.empty(LIMIT_S)
            client.vanish()
        assert host.n_cancelled == 1

    run(law)


def test_events_that_are_ready_together_go_out_in_one_turn_of_the_loop() -> None:
    """Which is one write to the socket: uvloop writes at the end of a turn."""

    async def law() -> None:
        loop, turn = asyncio.get_running_loop(), 0
        counting: asyncio.Handle

        def count() -> None:
            nonlocal turn, counting
            turn += 1
            counting = loop.call_soon(count)

        counting = loop.call_soon(count)
        turns: list[int] = []
        bodies = await sent(FakeHost(said("a", "b", "c")), lambda: turns.append(turn))
        counting.cancel()
        assert b"".join(bodies).count(b"data: ") == 6  # the role, three texts, the reason, [DONE]
        assert len(set(turns)) == 1

    run(law)


async def sent(host: FakeHost, on_send: Callable[[], None] = lambda: None) -> list[bytes]:
    """The bodies given to ASGI's send, for a streamed chat."""
    bodies: list[bytes] = []

    async def send(message: Any) -> None:
        on_send()
        if message["type"] == "http.response.body":
            bodies.append(message["body"])

    await asked(host, send)
    return bodies


async def asked(host: FakeHost, send: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    """A streamed chat, answered to `send`."""
    requests = iter([{"type": "http.request", "body": json.dumps(ask(True)).encode(), "more_body": False}])

    async def receive() -> Any:
        request = next(requests, None)
        if request is None:
            await for_ever()
        return request

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "query_string": b"", "root_path": ""}
    await app_of(host, **options)(scope, receive, send)


def test_a_hundred_clients_that_leave_at_any_turn_leave_nothing_behind() -> None:
    async def law() -> None:
        host = FakeHost([turn_of(1), *interleaved(said(*("word " for _ in range(40))))])
        app = app_of(host)
        async with listening(app) as port:

            async def visit(k: int) -> None:
                client = await Client.open(port)
                client.post(CHAT, ask(k % 2 == 0))
                for _ in range(k * 3):
                    await asyncio.sleep(0)
                client.vanish()

            await asyncio.gather(*(visit(k) for k in range(100)))
            assert await app.gate.empty(LIMIT_S)
        assert host.n_open == 0

    run(law)


def turn_of(n: int) -> Callable[[], Awaitable[None]]:
    async def turn() -> None:
        for _ in range(n):
            await asyncio.sleep(0)

    return turn


def interleaved(steps: list[Step]) -> list[Step]:
    return [each for step in steps for each in (step, turn_of(3))]
