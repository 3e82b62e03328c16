"""uvicorn's HTTP/1.1 with nine things put right. Knows bytes of the wire; knows no route and no request.

A head is bounded, and so is what else carries no body, such as the headers behind one in chunks: without it, a client
that never ends them takes all memory, and the loop's time with the square of it. An offer to upgrade (Java's client
makes one of every first request, to h2c) is passed over as RFC 9110 has it, where uvicorn loses the request's body.
HTTP/1.0 knows no chunks, and gets none. What is no HTTP is refused in JSON, like every other mistake, and not before
what was asked first is answered, for whose answer it would be taken. That a client has left is told to the request that
is being answered, and not to the last that it sent, as long as a few wait behind it. And nobody keeps a connection by
doing nothing (`patience`): a head must come whole (408), and a whole answer be read, and a connection on which nothing
was asked ends as one does on which nothing is asked any more. Bodies and streams are watched by who reads and writes
them. Connections never take the last files that the process may have open, and of requests sent in advance no more
become objects than a few: a megabyte of them would be a hundred. An answer over TLS is given to its transport as it is
read, which would drop the rest of it when the connection is closed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from starlette.types import Message
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from llamahost.api.patience import IS_WHOLE, Passage
from llamahost.api.problems import Problem, problem_of
from llamahost.core.errors import Unavailable

MAX_HEAD_BYTES = 64 * 1024
"""Of request line and headers, or of what follows them without a byte of body; other servers take 8 to 32 KiB."""

N_HEARD = 8
"""Requests that may wait for the answer before theirs, and whose client is still listened to: it may leave."""

N_UNREAD = 2**14
"""Bytes of an answer that wait for its reader before what makes it waits too, until a fourth is left: steps so small
that who reads LEAST_RATE is seen to read."""

N_READ = 4096
"""Bytes that are read at once. They may hold two hundred requests, each of which becomes a hundred times its size."""

N_SPARE = 64
"""Files that connections leave to all else, a model, a pull or a module that is imported late; of few files, half."""

LOOKS = 4
"""At a connection, in the time that its client may do nothing; it ends by a fourth later than it could, at most."""

_OF_UPGRADES = frozenset({b"upgrade", b"http2-settings"})


class _HeadTooLarge(Exception):
    """Ends the parser's reading."""


class _UntilClosed(RequestResponseCycle):
    """An answer to HTTP/1.0: where its head tells no length, its end is the connection's."""

    async def send(self, message: Message) -> None:  # type: ignore[override]  # the same, of starlette's types
        self.chunked_encoding = False
        if message["type"] == "http.response.body":
            is_last = not message.get("more_body", False)
            self.expected_content_length = len(message.get("body", b"")) if is_last else sys.maxsize
        await super().send(message)  # type: ignore[arg-type]  # likewise


class _InPieces(RequestResponseCycle):
    """An answer over TLS, whose transport takes whatever it is given, tells of none of it, and half a minute after it
    is closed drops what was not read: the next piece goes out when most of those before were read."""

    async def send(self, message: Message) -> None:  # type: ignore[override]  # likewise
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            n_before = max(0, len(body) - 1) // N_UNREAD * N_UNREAD
            for at in range(0, n_before, N_UNREAD):
                piece = body[at : at + N_UNREAD]
                await super().send({"type": "http.response.body", "body": piece, "more_body": True})
            if n_before:
                message = {**message, "body": body[n_before:]}
        await super().send(message)  # type: ignore[arg-type]  # likewise


class _InPiecesUntilClosed(_InPieces, _UntilClosed):
    """Both."""


_CYCLES = {(False, True): _UntilClosed, (True, False): _InPieces, (True, True): _InPiecesUntilClosed}
"""By whether it goes over TLS, and whether to HTTP/1.0."""


class _Flow(FlowControl):
    """Whoever wants to read waits until what was read before is asked."""

    is_held = False

    def resume_reading(self) -> None:
        if not self.is_held:
            super().resume_reading()


class Http1(HttpToolsProtocol):
    """Owned by the event loop. One connection."""

    _n_head = 0  # bytes so far, of pieces in which no head ended, no body came and no message ended
    _n_news = 0  # of these three
    _n_named = 0  # bytes of the headers of one head
    _is_in_head = True
    _is_offer = False  # the head that was just read asks to upgrade: it is read again without that
    _answered: RequestResponseCycle | None = None  # the request that is, or was last; `cycle` is the last that came
    _refusal = b""  # of what came last, behind requests that are not answered yet; nothing is read any more
    _held = b""  # what came behind so many requests that are not answered yet that it is not looked at
    _coming: Passage | None = None  # of a request whose end has not come yet
    _going: Passage | None = None  # of what was to go out at the last look, and then was `_n_left`
    _n_left = 0
    _heard = 0.0  # when a byte last came, or an answer was whole

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        stall_s: Callable[[], float] = lambda: 60.0,
        n_files: int = 2**16,
    ) -> None:
        """`n_files` may be open in this process."""
        super().__init__(config, server_state, app_state, _loop)
        self._stall_s = stall_s
        self._n_files = max(n_files - N_SPARE, n_files // 2)
        self._time = self.loop.time

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self.flow = self._flow = _Flow(transport)
        transport.set_write_buffer_limits(N_UNREAD)
        self._heard = self._time()
        self._look_again()
        place = transport.get_extra_info("socket")
        if place is not None and place.fileno() >= self._n_files:  # the kernel gives the lowest that is free
            self._refuse(problem_of(Unavailable("this server can take no more connections now")))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._looking.cancel()
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        """A timer for each request would cost more."""
        patience_s = min(self._stall_s(), self.timeout_keep_alive)
        self._looking = self.loop.call_later(patience_s / LOOKS, self._look)

    def _look(self) -> None:
        self._look_again()
        now, stall_s = self._time(), self._stall_s()
        is_answered = self._answered is None or self._answered.response_complete
        n_left = self.transport.get_write_buffer_size()
        if n_left and (is_answered or self.flow.write_paused or self.transport.is_closing()):  # nothing is added then
            if self._going is None:
                self._going = Passage(now)
            elif n_left < self._n_left:
                self._going.moved(self._n_left - n_left, now)
            self._n_left = n_left
            if now >= self._going.ends(stall_s):
                self.transport.abort()
            return
        self._going = None
        if not is_answered or self.transport.is_closing():
            return
        if self._coming is not None:
            if now >= self._coming.ends(stall_s):
                self._give_up()
        elif now >= self._heard + self.timeout_keep_alive:
            self.transport.close()

    def _give_up(self) -> None:
        if self._is_in_head:
            told = f"the request's head did not come within {self._stall_s():g} s (stall_s)"
            self._refuse(Problem(status=408, message=told, type="timeout_error", code="request_timeout"))
        else:  # the rest of a body, the answer to which was told before
            self.transport.close()

    def refuse_unfinished(self) -> None:
        """The server stops: what has not come whole is not waited for."""
        answered = self._answered
        if (
            answered is not None
            and answered.more_body
            and not (answered.response_started or self.transport.is_closing())
        ):
            self._refuse(problem_of(Unavailable("the server is shutting down", retry_after_s=5.0)))

    def resume_writing(self) -> None:
        self._going = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        self._heard = self._time()
        super().on_response_complete()
        if self._held and len(self.pipeline) <= N_HEARD:
            self._take(self._held)
        if self._refusal and self._answered is not None and self._answered.response_complete:
            self._end_with(self._refusal)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._heard = self._time()
        self._take(self._held + data if self._held else data)

    def _take(self, data: bytes) -> None:
        at = 0
        while at < len(data) and len(self.pipeline) <= N_HEARD:
            if self._refusal or self.transport.is_closing():
                return
            again = self._read(data[at : at + N_READ])
            at += N_READ
            if again:
                data, at = again + data[at:], 0
        self._held = data[at:]
        if self._held:
            self._flow.is_held = True
            self.flow.pause_reading()
        elif self._flow.is_held:
            self._flow.is_held = False
            self.flow.resume_reading()

    def _read(self, data: bytes) -> bytes:
        """Returns what is to be read again: a request without its offer, and all behind it."""
        n_news = self._n_news
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self.parser.get_method() == b"CONNECT":
                self._refuse(_no_request(405, "this server is no proxy"))
                return b""
            return self._without_the_offer() + data[offer.args[0] :]
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _HeadTooLarge):
                self._refuse_head()
            else:
                self._refuse(_no_request(400, "this is no HTTP/1.1 request"))
        else:
            if n_news == self._n_news:
                self._n_head += len(data)
                if self._n_head > MAX_HEAD_BYTES:
                    self._refuse_head()
        return b""

    def on_message_begin(self) -> None:
        self._is_offer = False
        self._n_named = 0
        self._coming = Passage(self._heard)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # what comes after a body in chunks is nothing that anybody asks for
            self._n_named += len(name) + len(value) + 4
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._told()
        # What came whole, in one read with its end, has not been counted.
        if len(self.url) + self._n_named > MAX_HEAD_BYTES:
            raise _HeadTooLarge
        self._is_offer = self.parser.should_upgrade()
        if not self._is_offer:
            super().on_headers_complete()
            kind = _CYCLES.get((self.scheme == "https", self.parser.get_http_version() == "1.0"))
            if kind is not None:
                self.cycle.__class__ = kind  # uvicorn makes it; its task begins in a later turn
            if 0 < len(self.pipeline) <= N_HEARD:
                self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        self._told()
        if self._coming is not None:
            self._coming.moved(len(body), self._heard)
        if not self._is_offer:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._coming = None
        self._is_in_head = True  # of the next, from its first byte on
        self._told()
        if not self._is_offer:
            self.scope[IS_WHOLE] = True  # type: ignore[literal-required]  # a key of our own
            super().on_message_complete()

    def _told(self) -> None:
        self._n_head = 0
        self._n_news += 1

    def _without_the_offer(self) -> bytes:
        method = self.parser.get_method()
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(t for t in value.split(b",") if t.strip().lower() not in _OF_UPGRADES)
            if name not in _OF_UPGRADES:
                lines.append(b"%s: %s" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        return b"\r\n".join([*lines, b"", b""])

    def _refuse_head(self) -> None:
        self._refuse(_no_request(431, f"the request's head is larger than {MAX_HEAD_BYTES} bytes"))

    def _refuse(self, problem: Problem) -> None:
        body = problem.body
        headers = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *problem.headers,
            (b"connection", b"close"),
        )
        head = b"HTTP/1.1 %d %s" % (problem.status, HTTPStatus(problem.status).phrase.encode())
        refusal = b"\r\n".join([head, *(b"%s: %s" % header for header in headers), b"", body])
        answered, last = self._answered, self.cycle
        if answered is None or answered.response_complete or (answered is last and last.more_body):
            self._end_with(refusal)  # nobody waits for an answer before it
            return
        self._refusal = refusal
        if self.pipeline and last.more_body:  # it is the body of this one that is no HTTP: it is not to be asked
            self.pipeline.popleft()

    def _end_with(self, refusal: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(refusal)
            self.transport.close()


def _no_request(status: int, message: str) -> Problem:
    return Problem(status=status, message=message, type="invalid_request_error")
