"""Streams that each bring one token a step, and get one, as columns: what nearly every step is, at the cost of a few.

What they got is told to their sequences later, when somebody wants to know: many tokens cost hardly more than one.
Knows slots and tokens; decides nothing.

    law: `take` refuses what ends a job, fills its slot or may want a look at the room; then nothing has changed
"""

from __future__ import annotations

from array import array

from llamahost.core.work import Streams
from llamahost.engine.slots import Slots

N_LATER = 64
"""Steps after which the sequences are told in any case: what nobody asks for must not grow for ever."""


class Steady:
    """Owned by the scheduler. Only of sequences whose gap is one and which have generated; ascending by slot."""

    __slots__ = (
        "_came",
        "_end_ids",
        "_job_ids",
        "_last",
        "_n_ctx",
        "_n_left",
        "_n_steps",
        "_places",
        "_slots",
        "_starts",
        "_tokens",
        "running",
    )

    def __init__(self, slots: Slots, *, n_ctx: int, n_steps: int) -> None:
        """Of all that run there; for `n_steps` each of them surely finds a cell."""
        self.running = running = slots.running
        self._slots = slots
        self._job_ids = [sequence.job.id for sequence in running]
        self._places = array("i", [sequence.slot for sequence in running])
        self._end_ids = frozenset[int]().union(*{sequence.job.end_ids for sequence in running})
        self._n_ctx = n_ctx
        self._n_steps = n_steps
        self._last = 0.0
        self._came: list[list[int]] = []  # a list of tokens a step
        self._begin()

    @property
    def n_untold(self) -> int:
        """Tokens that are computed, and that their sequences do not know of."""
        return len(self._came) * len(self.running)

    @property
    def spans(self) -> Streams:
        """Of the next step. What is handed over here is not changed later."""
        return Streams(self._job_ids, self._places, self._starts, len(self._came), self._tokens)

    def take(self, tokens: list[int], now: float) -> bool:
        """One more token of each. False: one would end its job or fill its slot, or the room is to be seen to."""
        if len(self._came) >= self._n_left or not self._end_ids.isdisjoint(tokens):
            return False
        if len(self._came) == N_LATER:
            self.settle()
        self._came.append(tokens)
        self._tokens, self._last = tokens, now
        return True

    def settle(self) -> None:
        """Let the sequences know what they got."""
        n = len(self._came)
        if not n:
            return
        for sequence, tokens in zip(self.running, zip(*self._came, strict=True), strict=True):
            sequence.tokens.extend(tokens)
            sequence.n_generated += n
            sequence.n_computed += n
            sequence.last = self._last
            self._slots.computed(sequence.slot, n)
        self._n_steps -= n
        self._begin()

    def _begin(self) -> None:
        running = self.running
        self._came = []
        self._starts = array("i", [sequence.n_computed for sequence in running])
        self._tokens = [sequence.tokens[-1] for sequence in running]
        n_left = min([min(s.job.n_max - s.n_generated - 1, self._n_ctx - len(s.tokens)) for s in running])
        self._n_left: int = min(n_left, self._n_steps)
