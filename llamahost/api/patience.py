"""How long a client may take to send what it has begun, and to read what it is told. Knows bytes and times, no socket.

Nothing at all may move for `stall_s`, as with nginx; and what moves must do so, beyond the first `stall_s`, at a rate
that every line reaches, as with Apache (500 bytes a second) and Kestrel (240), since one byte now and then would hold
a connection, and its memory, for ever. A long prompt over a bad line takes as long as it takes.
"""

from __future__ import annotations

IS_WHOLE = "llamahost.is_whole"
"""In a request's scope: it had come to its end before anybody looked for more."""

LEAST_RATE = 240.0
"""Bytes a second, over all that was moved."""


class Passage:
    """Owned by the event loop. Bytes that move one way, from their first moment on."""

    __slots__ = ("_last", "_n_bytes", "_since")

    def __init__(self, now: float) -> None:
        self._since = self._last = now
        self._n_bytes = 0

    def moved(self, n_bytes: int, now: float) -> None:
        self._n_bytes += n_bytes
        self._last = now

    def ends(self, stall_s: float) -> float:
        """When patience ends, if nothing moves until then."""
        return min(self._last + stall_s, self._since + stall_s + self._n_bytes / LEAST_RATE)
