"""Decide who starts: the queue of newcomers, the preempted, and who waits for a prefix that another is computing.

law: a preempted sequence resumes before any newcomer starts
law: newcomers start by priority, then by arrival; only one that was promised a prefix is passed over
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from llamahost.core.work import Copy, Job, Restore, Save, Times
from llamahost.engine.placement import place
from llamahost.engine.prefix import Promise, best_promise
from llamahost.engine.room import Room
from llamahost.engine.sequence import NOWHERE, Sequence
from llamahost.engine.slots import Slots

MIN_PROMISE = 64
"""Tokens beyond what is there already that another must be about to compute, for a newcomer to wait and copy them."""


@dataclass(slots=True)
class Entries:
    """What a plan must carry for those who start in it."""

    begins: list[Job] = field(default_factory=list)
    restores: list[Restore] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)


class Admission:
    """Owned by the scheduler."""

    def __init__(self, slots: Slots, room: Room, *, min_promise: int = MIN_PROMISE) -> None:
        self.waiting: list[Sequence] = []  # by rank
        self.saved: list[Sequence] = []  # by rank
        self.promises: dict[Sequence, Promise] = {}  # to some of the waiting
        self._slots = slots
        self._room = room
        self._min_promise = min_promise
        self._is_stale = False  # something has changed since nobody more could start

    def enqueue(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=_rank)
        self._is_stale = True

    def slot_freed(self) -> None:
        self._is_stale = True

    def remove(self, sequence: Sequence) -> None:
        """It ended before it could (re)start."""
        if sequence.is_saved:
            self.saved.remove(sequence)
        else:
            self.waiting.remove(sequence)
            self.promises.pop(sequence, None)
        self._is_stale = True

    def preempt_one(self) -> Save | None:
        """The newest of the lowest priority gives way. None: it had nothing to save, and waits again."""
        sequence = max(self._slots.running, key=_rank)
        index = sequence.slot
        self._slots.preempt(sequence)
        sequence.n_reserved = 0
        sequence.drafts = ()
        self._is_stale = True
        if not sequence.is_saved:
            insort(self.waiting, sequence, key=_rank)
            return None
        insort(self.saved, sequence, key=_rank)
        return Save(sequence.job.id, index)

    def is_due(self) -> bool:
        """Could anybody start who could not before?"""
        if not self._slots.has_idle:
            return False
        if not self._is_stale and self.promises:
            self._is_stale = not all(promise.is_open for promise in self.promises.values())
        return self._is_stale and bool(self.waiting or self.saved)

    def enter(self, now: float) -> Entries:
        """Seat everybody who can be seated."""
        self._is_stale = False
        entries = Entries()
        if self._resume(entries):
            self._start(now, entries)
        return entries

    def stops(self) -> dict[Sequence, int]:
        """Where sources must pause, so that what can only be copied whole is once exactly what was promised."""
        stops: dict[Sequence, int] = {}
        for promise in self.promises.values():
            if promise.is_open:
                stops[promise.source] = min(promise.n, stops.get(promise.source, promise.n))
        return stops

    def check_integrity(self) -> None:
        for sequence in self.waiting:
            assert sequence.slot == NOWHERE
            assert not sequence.is_saved
            assert sequence.n_computed == 0
        for sequence in self.saved:
            assert sequence.slot == NOWHERE
            assert sequence.is_saved
        assert self.waiting == sorted(self.waiting, key=_rank), "the queue is out of order"
        assert self.saved == sorted(self.saved, key=_rank), "the preempted are out of order"
        assert set(self.promises) <= set(self.waiting), "a promise was made to somebody who does not wait"

    def _resume(self, entries: Entries) -> bool:
        """Put the preempted back, in order. False where one cannot, and so nobody else may start."""
        while self.saved:
            sequence = self.saved[0]
            slot = min(
                (slot for slot in self._slots.all if slot.sequence is None),
                key=lambda slot: (slot.n > 0, slot.used_at, slot.index),
                default=None,
            )
            if slot is None or not self._room.admits(sequence, slot):
                return False
            if not self._room.restores_now(sequence, slot):
                self._is_stale = True
                return False
            del self.saved[0]
            entries.restores.append(Restore(sequence.job.id, slot.index))
            self._slots.seat_saved(sequence, slot)
            self._room.settle()
        return True

    def _start(self, now: float, entries: Entries) -> None:
        written = {restore.slot for restore in entries.restores}
        read: set[int] = set()
        for sequence in self.waiting:
            if not self._slots.has_idle:
                break
            promise = self.promises.get(sequence)
            if promise is not None and promise.is_open:
                continue
            placement = place(sequence, self._slots, no_sources=written, no_targets=read)
            assert placement is not None, "an idle slot has vanished"
            job, slot, n, source = sequence.job, placement.slot, placement.n, placement.source
            promise = None
            if not sequence.is_scored:
                promise = best_promise(self._slots.running, sequence.tokens, job.adapters, n + self._min_promise)
            if promise is not None:
                self.promises[sequence] = promise
                continue
            self.promises.pop(sequence, None)
            if not self._room.admits(sequence, source or slot, n):
                break
            if source is None:
                self._slots.seat(sequence, slot, n)
            else:
                entries.copies.append(Copy(source.index, slot.index, n))
                self._slots.seat_copy(sequence, slot, source, n)
                written.add(slot.index)
                read.add(source.index)
            self._room.settle()
            sequence.n_cached = n
            if not sequence.has_begun:
                sequence.has_begun = True
                entries.begins.append(job)
                sequence.times = Times(arrived=sequence.times.arrived, admitted=now)
        self.waiting = [sequence for sequence in self.waiting if sequence.slot == NOWHERE]


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank
