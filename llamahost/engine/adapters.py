"""Decide whose adapters the next step is made with. Knows adapters and the time that it is told; computes nothing.

A step has one set of adapters, so those of other sets wait for it: sets take turns, and each turn is as long.

law: between two turns of a set, no other that wants one has two
law: a set that comes later goes behind all that wait already, whatever it is
"""

from __future__ import annotations

from llamahost.core.work import NO_ADAPTERS, Adapters
from llamahost.engine.sequence import Sequence

TURN_S = 0.03
"""A turn is at least one step. To change adapters makes llama.cpp build its graphs anew and reserve their buffers: 2 ms
with a tiny model on a CPU, more with a large one. Of short steps a turn has several, so that this stays a tenth.
"""


class AdapterTurns:
    """Owned by the scheduler."""

    def __init__(self, *, turn_s: float = TURN_S) -> None:
        self._turn_s = turn_s
        self._current: Adapters | None = None  # nobody has had a turn yet
        self._since = 0.0
        self._last: dict[Adapters, int] = {}  # the number of the turn that each had last, of those that are wanted
        self._n_turns = 0
        self._running: list[Sequence] | None = None
        self._wanted: dict[Adapters, None] = {}

    def next(self, running: list[Sequence], now: float) -> Adapters:
        """Those that the plan made at `now` is for; of sequences that run there is one with them, if there is any.

        Who runs is told by another list whenever it is others.
        """
        if running is not self._running:  # the same list holds the same sequences
            self._running = running
            self._wanted = dict.fromkeys(sequence.job.adapters for sequence in running)
        wanted = self._wanted  # in order: the same run, the same turns
        if not wanted:
            return NO_ADAPTERS
        if len(wanted) == 1:
            (adapters,) = wanted
            if adapters != self._current:
                self._begin(adapters, now)
            return adapters
        if self._current is not None and self._current in wanted and now - self._since < self._turn_s:
            return self._current
        last = {adapters: self._last.get(adapters, self._n_turns) for adapters in wanted}
        self._last = last
        adapters = min(last, key=lambda each: (last[each], each == self._current))
        self._begin(adapters, now)
        return adapters

    def _begin(self, adapters: Adapters, now: float) -> None:
        self._n_turns += 1
        self._last[adapters] = self._n_turns
        self._current = adapters
        self._since = now
