"""Long work in Python beside the event loop goes one thread at a time. Knows no work.

The GIL is one: two such threads are no faster than one, and the loop, which wants it back after each look at its
sockets, then waits for both. What runs without the GIL lets others have the turn meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


class _Mine(threading.local):
    is_held = False


_turn = threading.Lock()  # of the process, as the GIL is
_mine = _Mine()


def in_turn(work: Callable[[], Result]) -> Result:
    """Do `work` when no other thread does such; never called by the loop, which must not wait."""
    with _turn:
        _mine.is_held = True
        try:
            return work()
        finally:
            _mine.is_held = False


@contextmanager
def apart() -> Iterator[None]:
    """Around what does without the GIL for a millisecond or more: whoever has the turn gives it up for so long."""
    if not _mine.is_held:
        yield
        return
    _mine.is_held = False
    _turn.release()
    try:
        yield
    finally:
        _turn.acquire()
        _mine.is_held = True
