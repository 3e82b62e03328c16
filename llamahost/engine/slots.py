"""The table of slots: who sits where, what is kept, what is to be cut. Does what it is told; chooses only by age.

law: a slot is of one running sequence, or idle with the tokens whose KV it keeps, or idle and empty
law: what has changed here and not yet in the backend is in `truncations`, and the next plan carries it
"""

from __future__ import annotations

from array import array

from llamahost.core.work import Truncation
from llamahost.engine.cells import Cells
from llamahost.engine.sequence import NOWHERE, Sequence, Slot


class Slots:
    """Owned by the scheduler."""

    def __init__(self, n_slots: int, *, is_unified: bool, can_truncate: bool) -> None:
        self.all = [Slot(index) for index in range(n_slots)]
        self.cells = Cells(n_slots) if is_unified else None
        self.can_truncate = can_truncate
        self.n_running = 0
        self.freed_late = 0  # cells that only the truncations of the next plan will free
        self._truncations: dict[int, int] = {}
        self._rejected: dict[int, int] = {}  # slots to be cut whose sequence sits on: positions that the backend holds
        self._running: list[Sequence] | None = []  # by slot; None: to be made again
        self._ticks = 0

    @property
    def running(self) -> list[Sequence]:
        """Those that sit in a slot, ascending by slot."""
        if self._running is None:
            self._running = [slot.sequence for slot in self.all if slot.sequence is not None]
        return self._running

    @property
    def has_idle(self) -> bool:
        return self.n_running < len(self.all)

    @property
    def n_cells_used(self) -> int:
        return sum(slot.n for slot in self.all) if self.cells is None else self.cells.used

    @property
    def has_truncations(self) -> bool:
        return bool(self._truncations)

    def take_truncations(self) -> tuple[Truncation, ...]:
        """What the next plan must cut; it is done from here on."""
        self.freed_late = 0
        self._rejected.clear()  # also where the cut itself has become needless: a restore replaces all there was
        if not self._truncations:
            return ()
        taken = tuple(Truncation(slot, n) for slot, n in sorted(self._truncations.items()))
        self._truncations.clear()
        return taken

    def seat(self, sequence: Sequence, slot: Slot, n: int) -> None:
        """Let `sequence` have `slot`, of which [0, n) is right for it; the rest is cut."""
        assert slot.sequence is None, f"slot {slot.index} is taken"
        self.truncate(slot, n)
        self._sit(sequence, slot, n)

    def seat_copy(self, sequence: Sequence, slot: Slot, source: Slot, n: int) -> None:
        """Let `sequence` have `slot` with [0, n) of `source` in it."""
        assert slot.sequence is None, f"slot {slot.index} is taken"
        self._truncations.pop(slot.index, None)  # a copy replaces all; a cut after it would destroy it
        slot.n_least = source.n_least
        if self.cells is not None:
            self.cells.copy(source.index, slot.index, n)
        self.touch(source)
        self._sit(sequence, slot, n)

    def seat_saved(self, sequence: Sequence, slot: Slot) -> None:
        """Let `sequence` have `slot`, which its saved state replaces."""
        assert slot.sequence is None, f"slot {slot.index} is taken"
        self._truncations.pop(slot.index, None)
        slot.n_least = 0
        if self.cells is not None:
            freed = self.cells.truncate(slot.index, 0)
            if self._truncations:  # a slot that is yet to be cut may hold them still
                self.freed_late += freed
            self.cells.extend(slot.index, sequence.n_saved)
        n_computed, n_saved = sequence.n_computed, sequence.n_saved
        self._sit(sequence, slot, n_computed)
        if n_saved > n_computed:
            self._rejected[slot.index] = n_saved
            self._cut(slot.index, n_computed)

    def release(self, sequence: Sequence) -> None:
        """Take `sequence` out of its slot; what it has computed stays for the next one."""
        slot = self._stand(sequence)
        slot.kept = sequence.tokens[: sequence.n_computed]
        self.touch(slot)
        if sequence.job.is_aside:
            slot.used_at = NOWHERE  # the first to be given up

    def preempt(self, sequence: Sequence) -> None:
        """Take `sequence` out of its slot, which a save clears."""
        slot = self._stand(sequence)
        # Saves come before truncations, so refused drafts that are not cut yet are saved too, and cut when restored.
        sequence.n_saved = self._rejected.pop(slot.index, sequence.n_computed)
        slot.kept, slot.n_least = array("i"), 0
        if sequence.n_saved:  # else nothing is saved there, and so nothing cleared
            self._truncations.pop(slot.index, None)
        if self.cells is not None:
            self.cells.truncate(slot.index, 0)

    def clear(self, index: int) -> None:
        """Whatever the slot holds is not to be trusted."""
        slot = self.all[index]
        assert slot.sequence is None, "a sequence must leave its slot before it is cleared"
        slot.kept = array("i")
        self._cut(index, 0)

    def truncate(self, slot: Slot, n: int) -> None:
        """Keep [0, n) of an idle slot."""
        if n < slot.n:
            del slot.kept[n:]
            self._cut(slot.index, n)

    def roll_back(self, sequence: Sequence, n_held: int) -> None:
        """Drafts were refused: of the `n_held` positions that the backend holds, keep the computed ones alone."""
        self._rejected[sequence.slot] = n_held
        self._cut(sequence.slot, sequence.n_computed)

    def computed(self, index: int, n: int) -> None:
        """The backend has computed `n` more positions of this slot."""
        if self.cells is not None:
            self.cells.extend(index, n)

    def fill(self, slot: Slot, tokens: array[int], *, n_least: int = 0) -> None:
        """The backend holds these in an empty slot, from a life before this one; see Slot.n_least."""
        assert slot.sequence is None, f"slot {slot.index} is taken"
        assert not slot.kept, f"slot {slot.index} keeps something"
        slot.kept, slot.n_least = tokens[:], n_least
        self.computed(slot.index, len(tokens))
        self.touch(slot)

    def keep_more(self, index: int, tokens: array[int]) -> None:
        """A step that was under way when its sequence left has computed these into the slot."""
        self.all[index].kept.extend(tokens)
        self.computed(index, len(tokens))

    def evict_oldest(self) -> int | None:
        """Clear the idle slot that was used the longest ago; tell how many cells it freed. None: nothing is kept."""
        oldest = min(
            (slot for slot in self.all if slot.sequence is None and slot.kept),
            key=lambda slot: (slot.used_at, slot.index),
            default=None,
        )
        if oldest is None:
            return None
        before = self.n_cells_used
        self.truncate(oldest, 0)
        return before - self.n_cells_used

    def touch(self, slot: Slot) -> None:
        self._ticks += 1
        slot.used_at = self._ticks

    def check_integrity(self) -> None:
        n_running = 0
        for index, slot in enumerate(self.all):
            assert slot.index == index
            assert slot.n == 0 or slot.n >= slot.n_least, f"slot {index} was cut to what it does not hold"
            sequence = slot.sequence
            if sequence is not None:
                n_running += 1
                assert sequence.slot == index, f"slot {index} and its sequence disagree"
                assert not slot.kept, f"slot {index} is taken and keeps tokens besides"
                assert slot.adapters == sequence.job.adapters, f"slot {index} is of other adapters than its sequence"
                assert 0 <= sequence.n_computed <= len(sequence.tokens)
            if self.cells is not None:
                assert self.cells.length(index) == slot.n, f"slot {index} has cells for more or less than it holds"
        assert n_running == self.n_running, "the count of running sequences is wrong"
        assert [s.slot for s in self.running] == sorted(s.slot for s in self.running)
        assert len(self.running) == n_running
        for index, n in self._truncations.items():
            assert self.all[index].n >= n, f"slot {index} holds less than what it is to be cut to"
        if self.cells is not None:
            self.cells.check_integrity()

    def _sit(self, sequence: Sequence, slot: Slot, n: int) -> None:
        slot.sequence, slot.kept, slot.adapters = sequence, array("i"), sequence.job.adapters
        sequence.slot, sequence.n_computed, sequence.n_saved = slot.index, n, 0
        self.touch(slot)
        self.n_running += 1
        self._running = None

    def _stand(self, sequence: Sequence) -> Slot:
        slot = self.all[sequence.slot]
        assert slot.sequence is sequence
        slot.sequence = None
        sequence.slot = NOWHERE
        self.n_running -= 1
        self._running = None
        return slot

    def _cut(self, index: int, n: int) -> None:
        if n == 0:
            self.all[index].n_least = 0
        if self.cells is not None:
            self.freed_late += self.cells.truncate(index, n)
        self._truncations[index] = n
