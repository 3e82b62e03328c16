"""Threads that prepare requests beside the event loop, by size. Knows sizes; knows no request and no model.

Tokenising half a megabyte takes a second or so: what is that large has a lane of its own, so that only others of its
size wait behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from llamahost.core.turn import in_turn

N_LARGE = 65536
"""Characters that take 20 to 100 ms to tokenise."""

Result = TypeVar("Result")


class Lanes:
    """Owned by the loop. `n_cores` are what the process may use, computing included."""

    def __init__(self, n_cores: int) -> None:
        self._common = ThreadPoolExecutor(2, "prepare")
        # Each takes a core from what computes; where there are but two, one such request at a time is enough.
        self._large = ThreadPoolExecutor(min(4, max(1, n_cores // 2)), "prepare-large")

    def submit(self, work: Callable[[], Result], n_chars: int) -> Future[Result]:
        """Do work on `n_chars` of text, or on what takes as long."""
        return self._large.submit(in_turn, work) if n_chars > N_LARGE else self._common.submit(work)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._common.shutdown(wait=True)
        self._large.shutdown(wait=True)
