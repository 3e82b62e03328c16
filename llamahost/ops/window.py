"""How much of something came of late: counted over the last seconds, never extrapolated from less. Pure."""

from __future__ import annotations

from collections import deque

GRAIN_S = 0.25
"""Points closer than this are one, so that whoever asks often costs no memory."""


class Window:
    """A total that only grows, looked at now and then; the last `span_s` of it are kept."""

    def __init__(self, span_s: float, now: float) -> None:
        self._span_s = span_s
        self._points = deque([(now, 0)])
        self._total = 0

    def add(self, now: float, n: int) -> None:
        """So many more by now. A clock that stands still or goes back counts as one that stands still."""
        self._total += n
        now = max(now, self._points[-1][0])
        if len(self._points) > 1 and now - self._points[-2][0] < GRAIN_S:
            self._points[-1] = (now, self._total)
        else:
            self._points.append((now, self._total))
        while len(self._points) > 2 and now - self._points[1][0] >= self._span_s:
            self._points.popleft()  # the next one is old enough to be what is counted from

    def n(self, now: float) -> int:
        """How many came in the last `span_s`, or since the beginning where that is later."""
        self.add(now, 0)
        return self._total - self._points[0][1]

    def per_s(self, now: float) -> float:
        """The same, a second. Of less than one second nothing is said: 0."""
        n = self.n(now)
        seconds = self._points[-1][0] - self._points[0][0]
        return n / seconds if seconds >= 1.0 else 0.0
