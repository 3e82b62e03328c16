"""Carry an answer to its client and notice when the client leaves. Knows ASGI and bytes; knows no dialect.

Leaving is noticed by `receive` alone (uvicorn's `send` returns silently after it), so a task watches it from the
moment the body is read: queued, in a silent prefill or mid-stream, streamed or not. Then the generator is closed,
which is the one door of cancellation.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

from starlette.types import Receive, Send

from llamahost.api.body import ClientGone

T = TypeVar("T")
E = TypeVar("E")
Fed = TypeVar("Fed", contravariant=True)

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

N_PIECE = 2**14
"""Bytes of an event that are sent at once. What came while a slow client read is one event, which grows with the time
that the last one took: whether the client reads on is seen between its pieces."""

STREAM_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Encoder(Protocol[Fed]):
    """Dresses events as one dialect's stream; empty bytes where an event shows nothing."""

    def feed(self, event: Fed) -> bytes: ...

    def end(self) -> bytes:
        """What follows the last event."""
        ...

    def fail(self, error: Exception) -> bytes:
        """What follows an error after the stream began."""
        ...


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed its connection."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled, and ClientGone raised, when the client leaves before it is there."""
    answering = asyncio.current_task()
    assert answering is not None
    is_gone = is_over = False

    def leave(_: asyncio.Task[None]) -> None:
        nonlocal is_gone
        if not is_over:
            is_gone = True
            answering.cancel()  # in `work`: between its end and `is_over` nobody else runs

    watching = asyncio.create_task(until_gone(receive))
    watching.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if answering.cancelling() > is_gone:  # by whoever owns this task
            raise
        raise ClientGone from None
    finally:
        is_over = True  # `leave` may be among what runs next, where the client left in this very turn
        watching.cancel()
        if is_gone:
            answering.uncancel()
        await asyncio.wait((watching,))


async def fold(
    receive: Receive, events: AsyncGenerator[E, None], note: Callable[[E], None], feed: Callable[[E], object]
) -> None:
    """Feed all events to what makes one body of them, while the client is there. Raises ClientGone."""

    async def feeding() -> None:
        async with aclosing(events) as open_events:
            async for event in open_events:
                note(event)
                feed(event)

    await while_connected(receive, feeding())


class EventStream(Generic[E]):
    """Owned by the task of one request, and another that reads events and sends them, as `headers` say.

    The status is sent with the first bytes, so an error before them is raised and becomes a status of its own. What a
    slow client has not taken holds up the reading; what is sent in one turn of the loop, uvloop writes at once.
    A silent stream gets a comment every `ping_s` to 2 `ping_s` seconds.
    """

    def __init__(
        self,
        events: AsyncGenerator[E, None],
        encoder: Encoder[E],
        *,
        note: Callable[[E], None] = lambda event: None,
        ping_s: float,
        stall_s: float = math.inf,
        headers: list[tuple[bytes, bytes]] = STREAM_HEADERS,
        ping: bytes = PING,
    ) -> None:
        self._events = events
        self._encoder = encoder
        self._note = note
        self._ping_s = ping_s
        self._stall_s = stall_s
        self._headers = headers
        self._ping = ping
        self._clock = asyncio.get_running_loop().time
        self._sending_since = math.inf
        self._delivering: asyncio.Task[None] | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._was_silent = True
        self._is_started = False
        self._is_gone = False  # the client, or it does not read

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Raises the events' error when nothing was sent yet, and ClientGone."""
        loop = asyncio.get_running_loop()
        # A task of its own: what wakes it goes down from here, and not through all who called this, for each event.
        self._delivering = loop.create_task(self._deliver(send))
        watching = loop.create_task(until_gone(receive))
        watching.add_done_callback(self._leave)
        self._timer = loop.call_later(self._ping_s, self._tick, loop, send)
        try:
            await self._delivering
        except asyncio.CancelledError:
            if not self._is_gone or _is_cancelled():
                raise
            raise ClientGone from None
        finally:
            self._timer.cancel()
            beside = [task for task in (watching, self._pinging) if task is not None]
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            self._delivering = None  # it holds this: nothing of a request is to be left to the garbage collector

    def _leave(self, _: object = None) -> None:
        delivering = self._delivering
        if delivering is not None and not (self._is_gone or delivering.done()):
            self._is_gone = True
            delivering.cancel()  # wherever it waits, for an event or in `send`

    def _pinged(self, _: object) -> None:
        self._pinging = None

    def _tick(self, loop: asyncio.AbstractEventLoop, send: Send) -> None:
        self._timer = loop.call_later(self._ping_s, self._tick, loop, send)
        if self._clock() - self._sending_since > self._stall_s:
            self._leave()
        elif self._was_silent and self._sending_since == math.inf:
            self._pinging = loop.create_task(self._pass(send, self._ping))
            self._pinging.add_done_callback(self._pinged)
        self._was_silent = True

    async def _deliver(self, send: Send) -> None:
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    self._note(event)
                    data = self._encoder.feed(event)
                    if data:
                        if self._pinging is not None:
                            await self._until_pinged()
                        await self._pass(send, data)
            last = self._encoder.end()
        except Exception as error:
            if not self._is_started and self._pinging is None:
                raise
            last = self._encoder.fail(error)
        await self._until_pinged()
        await self._pass(send, last, is_last=True)

    async def _until_pinged(self) -> None:
        """A ping may have begun the response, and wait for room to."""
        while self._pinging is not None:
            await asyncio.wait((self._pinging,))

    async def _pass(self, send: Send, body: bytes, *, is_last: bool = False) -> None:
        self._was_silent = False
        self._sending_since = self._clock()
        if not self._is_started:
            self._is_started = True
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            self._sending_since = self._clock()
        if len(body) > N_PIECE:
            for at in range(0, len(body) - N_PIECE, N_PIECE):
                await send({"type": "http.response.body", "body": body[at : at + N_PIECE], "more_body": True})
                self._sending_since = self._clock()
            body = body[at + N_PIECE :]
        await send({"type": "http.response.body", "body": body, "more_body": not is_last})
        self._sending_since = math.inf


def _is_cancelled() -> bool:
    """By whoever owns this task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def send_json(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    is_last: bool = True,
) -> None:
    """One whole response; where it is not the last that is sent, an empty piece of its body ends it later."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})
