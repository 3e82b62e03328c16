"""Share one thread's time among its engines: who has had least of it goes next. Knows seconds; reads no clock.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) with equal weights: an engine's tag is the time that it was given,
and whoever comes back from idleness starts at the tag of the one being served, so that idleness earns no credit.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class _Turn(Generic[T]):
    """One taker. `tag` is in seconds."""

    __slots__ = ("is_idle", "tag", "taker")

    def __init__(self, taker: T, tag: float) -> None:
        self.taker = taker
        self.tag = tag
        self.is_idle = False


class Turns(Generic[T]):
    """Owned by the worker's thread."""

    def __init__(self) -> None:
        self._turns: tuple[_Turn[T], ...] = ()
        self._served = 0.0  # the tag of the one served last

    @property
    def takers(self) -> tuple[T, ...]:
        return tuple(turn.taker for turn in self._turns)

    def join(self, taker: T) -> None:
        self._turns = (*self._turns, _Turn(taker, self._served))

    def leave(self, taker: T) -> None:
        self._turns = tuple(turn for turn in self._turns if turn.taker is not taker)

    def wake(self) -> None:
        """Something has come for somebody: ask all again."""
        for turn in self._turns:
            if turn.is_idle:
                turn.is_idle = False
                turn.tag = max(turn.tag, self._served)

    def next(self) -> T | None:
        """Whose turn it is; None where all are idle."""
        best: _Turn[T] | None = None
        for turn in self._turns:
            if not turn.is_idle and (best is None or turn.tag < best.tag):
                best = turn
        return best.taker if best is not None else None

    def is_sole(self, taker: T) -> bool:
        """All others had nothing to do when they were asked last."""
        return all(turn.is_idle or turn.taker is taker for turn in self._turns)

    def served(self, taker: T, seconds: float) -> None:
        """It had work, which took so long."""
        for turn in self._turns:
            if turn.taker is taker:
                self._served = max(self._served, turn.tag)
                turn.tag += seconds

    def idle(self, taker: T) -> None:
        """It had nothing to do; it is not asked again before `wake`."""
        for turn in self._turns:
            if turn.taker is taker:
                turn.is_idle = True
