"""Keep the promise that running sequences find cells, in unified KV. Knows counts; split KV has nothing to do here.

law: used cells + what running sequences are promised beyond what they hold <= room, before every decode
law: one sequence alone always fits, because n_ctx <= n_cells
"""

from __future__ import annotations

from llamahost.engine.sequence import Sequence, Slot
from llamahost.engine.slots import Slots

RESERVE = 256
"""Cells promised to a newcomer beyond its prompt, so that it does not lose its place at once."""

NO_END = 2**31
"""Steps that anybody may make in split KV, whose cells are his."""


class Room:
    """Owned by the scheduler."""

    def __init__(self, slots: Slots, *, n_ctx: int, n_cells: int, n_reserve: int = RESERVE) -> None:
        self.n_cells = n_cells
        self._n_ctx = n_ctx
        self._n_reserve = n_reserve
        self._slots = slots
        self._seen = n_cells  # what the backend was seen to hold; below n_cells after it had no room

    def admits(self, sequence: Sequence, origin: Slot, n: int = 0) -> bool:
        """May it start, with [0, n) of `origin`? If so, what it needs is promised to it; `settle` once it sits."""
        cells = self._slots.cells
        if cells is None:
            return True
        n_more = min(sequence.job.n_max - sequence.n_generated, self._n_reserve)
        n_reserved = min(len(sequence.tokens) + n_more, self._n_ctx)
        running = self._slots.running
        least = cells.used_by([other.slot for other in running], source=origin.index, n=n)
        limit = self._seen if running else self.n_cells
        if least + self._promised() + n_reserved - n > limit:
            return False
        sequence.n_reserved = n_reserved
        return True

    def settle(self) -> None:
        """Give up what idle slots keep, the least recently used first, until all promises can be kept."""
        cells = self._slots.cells
        if cells is None:
            return
        promised = self._promised()
        while cells.used + promised > self._limit and self._slots.evict_oldest() is not None:
            pass

    def restores_now(self, sequence: Sequence, slot: Slot) -> bool:
        """Are there cells for the saved state at once? If not, idle slots are given up, and the next step has them.

        Restores come before truncations, so what is cut in this step does not help them.
        """
        cells = self._slots.cells
        if cells is None:
            return True
        of_slot = 0
        if not self._slots.has_truncations:  # else a slot that is yet to be cut may hold the same cells
            of_slot = cells.used - cells.used_by([other.index for other in self._slots.all if other is not slot])
        if self.n_cells - cells.used - self._slots.freed_late + of_slot >= sequence.n_saved:
            return True
        while self.n_cells - cells.used < sequence.n_saved and self._slots.evict_oldest() is not None:
            pass
        return False

    def is_short(self) -> bool:
        """After all idle slots were given up, do running sequences still lack cells for their next step?"""
        cells = self._slots.cells
        if cells is None:
            return False
        wanted = cells.used
        for sequence in self._slots.running:
            n = len(sequence.tokens) + len(sequence.drafts)
            if sequence.n_reserved < n:
                sequence.n_reserved = n
            wanted += sequence.n_reserved - sequence.n_computed
        while wanted > self._limit:
            freed = self._slots.evict_oldest()
            if freed is None:
                return self._slots.n_running > 1
            wanted -= freed
        return False

    def n_steps(self) -> int:
        """So many steps all who run may go on, a token each, before this has to be looked at again."""
        cells = self._slots.cells
        if cells is None:
            return NO_END
        running = self._slots.running
        # While none goes beyond what it is promised, each step takes of that, and used + promised stays as it is.
        n_promised = min([sequence.n_reserved - sequence.n_computed for sequence in running]) - 1
        # In the step after k others: used + k * n cells, and promised ones, or one each, no more than now and n.
        n_free = (self._limit - cells.used - self._promised()) // len(running) - 1
        return max(n_promised, n_free)

    def was_refused(self, n_tokens: int) -> None:
        """The backend had no cells for so many tokens: count on less for a while."""
        if self._slots.cells is not None:
            # Not all at once: one refusal far below the count says less than several.
            self._seen = min(self._seen, max(self._slots.cells.used + n_tokens - 1, self._seen - self.n_cells // 16))

    def was_enough(self) -> None:
        if self._seen < self.n_cells:
            self._seen += 1

    @property
    def _limit(self) -> int:
        return self._seen if self._slots.n_running > 1 else self.n_cells

    def _promised(self) -> int:
        return sum(max(sequence.n_reserved - sequence.n_computed, 0) for sequence in self._slots.running)
