"""Find the first stop string in text that comes in pieces, and never show a part of one. Knows no tokens.

The first stop to be *complete* wins; of those that complete on the same character the longest, which began earliest.
How the text is cut into pieces makes no difference. Each stop is matched by its prefix function (Knuth, Morris and
Pratt), so the time is linear in the text and what is held back is never scanned again.
"""

from __future__ import annotations


class StopStrings:
    """A matcher for a few stop strings. Owned by one reply."""

    __slots__ = ("_borders", "_first", "_held", "_n_matched", "_stops")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(dict.fromkeys(stops))
        self._borders = tuple(_borders(stop) for stop in self._stops)
        self._first = frozenset(stop[0] for stop in self._stops)
        self._n_matched = [0] * len(self._stops)  # the text so far ends in that many characters of each stop
        self._held = ""  # as long as the largest of n_matched

    def feed(self, text: str) -> tuple[str, str | None]:
        """What may be shown now, and the stop that is complete now, if any: then nothing may be fed any more."""
        if not self._held and self._first.isdisjoint(text):
            return text, None
        n_matched = self._n_matched
        for position, character in enumerate(text, 1):
            found = ""
            for k, stop in enumerate(self._stops):
                n = n_matched[k]
                borders = self._borders[k]
                while n and stop[n] != character:
                    n = borders[n]
                if stop[n] == character:
                    n += 1
                    if n == len(stop):
                        if n > len(found):
                            found = stop
                        n = borders[n]
                n_matched[k] = n
            if found:
                safe = self._held + text[:position]
                self._held = ""
                return safe[: len(safe) - len(found)], found
        whole = self._held + text
        n_safe = len(whole) - max(n_matched)
        self._held = whole[n_safe:]
        return whole[:n_safe], None

    def flush(self) -> str:
        """The end of the text: what was held back is no stop."""
        held, self._held = self._held, ""
        self._n_matched = [0] * len(self._stops)
        return held


def _borders(stop: str) -> list[int]:
    """borders[n]: the longest proper prefix of stop[:n] that is also its suffix."""
    borders = [0, 0]
    for position in range(1, len(stop)):
        n = borders[position]
        while n and stop[n] != stop[position]:
            n = borders[n]
        borders.append(n + 1 if stop[n] == stop[position] else 0)
    return borders
