"""The last requests, as they ended: bounded, in memory, gone with the process. Counts and times, never content."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from llamahost.core.observe import RequestRecord

N_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A request and when it ended, in seconds since 1970."""

    ended_at: float
    record: RequestRecord


class Journal:
    """Owned by the event loop. Keeps the last `n_max`."""

    def __init__(self, n_max: int = N_KEPT) -> None:
        self._entries: deque[Entry] = deque(maxlen=n_max)

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)

    def last(self, n: int, name: str = "") -> Iterator[Entry]:
        """The newest first; of the model or the route where one is named."""
        for entry in reversed(self._entries):
            if n <= 0:
                return
            if not name or name in (entry.record.model, entry.record.route):
                n -= 1
                yield entry
