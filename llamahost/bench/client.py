"""One request over one connection. Knows sockets; knows no workload.

A connection serves one request: a pooled one could be closed by its server at the moment of reuse, and servers with a
thread a connection would be starved by idle ones. On loopback it costs both sides of a comparison the same 0.1 ms.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import cast
from urllib.parse import urlsplit

from llamahost.bench.wire import EventReader, ResponseReader, Trace, WireError


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server listens. `path` is what stands before `/v1`."""

    host: str
    port: int
    path: str = ""
    is_tls: bool = False
    api_key: str = ""

    @classmethod
    def parse(cls, url: str, *, api_key: str = "") -> Target:
        """`127.0.0.1:8080`, `http://host:port` and `https://host/v1` alike. Raises ValueError."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not the URL of an HTTP server: {url}")
        is_tls = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if is_tls else 80), path, is_tls, api_key)

    @property
    def url(self) -> str:
        return f"http{'s' if self.is_tls else ''}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        lines = [f"{method} {self.path}{path} HTTP/1.1", f"Host: {self.authority}", "Connection: close"]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        if self.api_key:
            lines.append(f"Authorization: Bearer {self.api_key}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request. Times are seconds from its start; `error` is its kind, empty when all went well.

    `first_s` is None where no text came. `n_prompt` and `n_generated` are the server's own counts; a server that gives
    none has its events counted instead, and `is_metered` is False.
    """

    total_s: float
    first_s: float | None = None
    gaps_s: tuple[float, ...] = ()
    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    is_metered: bool = True
    error: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A plain response."""

    status: int
    body: bytes


class _Exchange(asyncio.Protocol):
    """Sends a request as the connection opens and hands on what comes. Owned by the loop."""

    def __init__(self, request: bytes, on_body: Callable[[bytes, float], None]) -> None:
        self.reader = ResponseReader()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._on_body = on_body
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not registered as asyncio's, so a check by class would fail
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            for piece in self.reader.feed(data):
                self._on_body(piece, now)
        except WireError as error:
            self._end(error)
            return
        if self.reader.is_complete:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self.reader.feed_eof()
        except WireError as error:
            self._end(exc or error)
        else:
            self._end(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _end(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


async def _talk(target: Target, request: bytes, on_body: Callable[[bytes, float], None]) -> int:
    """Send and read to the end; gives the status. Raises OSError or WireError."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context() if target.is_tls else None
    _, exchange = await loop.create_connection(
        lambda: _Exchange(request, on_body), target.host, target.port, ssl=context
    )
    try:
        await exchange.done
    finally:
        exchange.close()
    return exchange.reader.status


async def fetch(target: Target, method: str, path: str, body: bytes = b"", *, timeout_s: float = 30.0) -> Answer:
    """A plain request. Raises OSError, WireError or TimeoutError."""
    pieces: list[bytes] = []
    async with asyncio.timeout(timeout_s):
        status = await _talk(target, target.request(method, path, body), lambda piece, _: pieces.append(piece))
    return Answer(status, b"".join(pieces))


async def stream(
    target: Target, path: str, body: bytes, *, timeout_s: float, due: float | None = None, n_kept: int = 4096
) -> Outcome:
    """A streamed request, measured from `due` (a perf_counter reading) or from now. Raises nothing but cancellation.

    `due` is when the request should have been sent: a generator that fell behind must not hide it from the figures.
    """
    started = time.perf_counter() if due is None else due
    events = EventReader()
    trace = Trace()
    head: list[bytes] = []

    def on_body(piece: bytes, now: float) -> None:
        if len(head) < 8:
            head.append(piece[:n_kept])
        for event in events.feed(piece):
            trace.add(event, now)

    status, kind, detail = 0, "", ""
    try:
        async with asyncio.timeout(timeout_s):
            status = await _talk(target, target.request("POST", path, body), on_body)
    except TimeoutError:
        kind = "timeout"
    except WireError as error:
        kind, detail = "cut", str(error)
    except OSError as error:
        kind, detail = ("connect" if not head else "cut"), str(error)
    total_s = time.perf_counter() - started
    trace.finish()
    if not kind and status != 200:
        kind, detail = f"http {status}", b"".join(head)[:200].decode("utf-8", "replace")
    elif not kind and trace.error:
        kind, detail = "stream", trace.error
    elif not kind and not trace.is_done and not trace.finish_reason:
        kind = "unfinished"
    stamps = trace.stamps
    is_metered = trace.n_generated is not None
    return Outcome(
        total_s=total_s,
        first_s=stamps[0] - started if stamps else None,
        gaps_s=tuple(after - before for before, after in pairwise(stamps)),
        n_prompt=trace.n_prompt or 0,
        n_cached=trace.n_cached,
        n_generated=trace.n_generated if trace.n_generated is not None else len(stamps),
        is_metered=is_metered,
        error=kind,
        detail=detail,
    )
