"""What happens, told to whoever listens: encoded once for all, bounded for each. Knows bytes; knows no model.

Whoever does not keep up is ended, so that nobody's memory is spent on him; he may come again, and gets the state whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection

import msgspec

from llamahost.api.admin_types import EndInfo, EventKind

N_UNREAD = 256
"""Events that one listener may leave unread, beside those that are on their way to him."""

TOO_SLOW = "events were not read as fast as they came"
SHUTTING_DOWN = "the server is shutting down"
OTHER_KEYS = "the server asks for other keys now"

_encoder = msgspec.json.Encoder()


def encoded(kind: EventKind, body: object) -> bytes:
    """One server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encoder.encode(body))


class _Listener:
    """One reader's share. `ended` says why he gets no more."""

    def __init__(self, kinds: Collection[EventKind]) -> None:
        self.kinds = kinds
        self.unread: deque[bytes] = deque()
        self.news = asyncio.Event()
        self.ended = ""

    def put(self, event: bytes) -> None:
        if len(self.unread) >= N_UNREAD:
            self.end(TOO_SLOW)
            return
        self.unread.append(event)
        self.news.set()

    def end(self, reason: str) -> None:
        self.ended = reason
        self.unread.append(encoded("end", EndInfo(reason=reason)))
        self.news.set()


class Feed:
    """Owned by the event loop."""

    def __init__(self) -> None:
        self._listeners: list[_Listener] = []
        self._is_closed = False

    @property
    def n_listeners(self) -> int:
        return len(self._listeners)

    def tell(self, kind: EventKind, body: Callable[[], object]) -> None:
        """`body` is made only where somebody listens."""
        wanting = [each for each in self._listeners if kind in each.kinds and not each.ended]
        if wanting:
            event = encoded(kind, body())
            for listener in wanting:
                listener.put(event)

    async def listen(
        self, kinds: Collection[EventKind], first: Callable[[], list[bytes]]
    ) -> AsyncGenerator[bytes, None]:
        """What is told from now on, behind what comes `first`."""
        listener = _Listener(kinds)
        self._listeners.append(listener)
        try:
            for event in first():
                listener.put(event)
            if self._is_closed:
                listener.end(SHUTTING_DOWN)
            while True:
                await listener.news.wait()
                listener.news.clear()
                while listener.unread:
                    yield listener.unread.popleft()
                if listener.ended:
                    return
        finally:
            self._listeners.remove(listener)

    def close(self) -> None:
        """End every stream, and those that begin later."""
        self._is_closed = True
        self.end(SHUTTING_DOWN)

    def end(self, reason: str) -> None:
        """End every stream that there is."""
        for listener in self._listeners:
            if not listener.ended:
                listener.end(reason)


class AsIs:
    """The encoder of events that are bytes already."""

    def feed(self, event: bytes) -> bytes:
        return event

    def end(self) -> bytes:
        return b""

    def fail(self, error: Exception) -> bytes:
        return encoded("end", EndInfo(reason=type(error).__name__))
