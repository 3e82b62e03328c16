"""Count what an answer thinks, and say when it must close. Knows pieces of tokens and one limit; knows no row, no C."""

from __future__ import annotations

from llamahost.core.work import ThoughtLimit

_MAX_MORE = 3
"""Tokens that a character left half may still take: of what is no UTF-8 every byte may be the first of one."""

_CONTINUED = range(0x80, 0xC0)  # bytes of UTF-8 that begin no character


class Thoughts:
    """Owned by the worker thread. Where one answer stands in its thoughts.

    law: at most `n_max` tokens are thought, and those that complete a character
    """

    __slots__ = ("_close", "_has_begun", "_limit", "_n_left", "_open", "_pieces", "_tail", "is_thinking")

    def __init__(self, limit: ThoughtLimit, pieces: tuple[bytes, ...]) -> None:
        self._limit = limit
        self._pieces = pieces
        self._open, self._close = limit.open.encode(), limit.close.encode()
        self._n_left = limit.n_max
        self._tail = b""  # the last bytes, in which a mark may have begun
        self._has_begun = False  # so much was said that only a mark that recurs could open thoughts
        self.is_thinking = limit.is_open

    def closing(self) -> tuple[int, ...]:
        """What must come now; it is told once, and then taken like any other token."""
        if not self.is_thinking or self._n_left > 0 or (_is_half(self._tail) and self._n_left > -_MAX_MORE):
            return ()
        self.is_thinking, self._tail = False, b""
        return self._limit.closing

    def stands(self, token: int) -> bool:
        """Whether a token may come: with nothing left to think, none completes an opening."""
        if self._n_left > 0 or self.is_thinking or self._open not in self._tail + self._pieces[token]:
            return True
        return self._has_begun and not self._limit.recurs

    def take(self, token: int) -> None:
        """A token has come."""
        if self.is_thinking:
            self._n_left -= 1
        data = self._tail + self._pieces[token]
        while (found := data.find(self._mark)) >= 0 and self._may_switch(data[:found]):
            data = data[found + len(self._mark) :]
            self.is_thinking = not self.is_thinking
            self._has_begun = True
        self._has_begun |= not self._may_open(data)
        self._tail = data[-max(len(self._mark) - 1, 3) :]

    @property
    def _mark(self) -> bytes:
        return self._close if self.is_thinking else self._open

    def _may_switch(self, before: bytes) -> bool:
        return self.is_thinking or self._limit.recurs or not (self._has_begun or before.strip())

    def _may_open(self, data: bytes) -> bool:
        """Whether all that was said is white space, and perhaps the beginning of a mark."""
        said = data.lstrip()
        return len(said) < len(self._open) and self._open.startswith(said)


def _is_half(data: bytes) -> bool:
    """Whether bytes of the last character are missing."""
    for n, byte in enumerate(reversed(data), 1):
        if byte not in _CONTINUED:
            return n < (4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1)
    return False
