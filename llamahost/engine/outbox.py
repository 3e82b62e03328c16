"""Carry emissions from the worker threads to the event loop, with one wake-up a step, and never make a worker wait.

Knows job ids and the loop; knows no slot and no text.

The loop and the workers share one GIL, so news is told in passes that leave most of it: the longer one took, the later
comes the next, and the more tokens each reader then finds as one. What a token costs falls as the load rises.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

from llamahost.core.work import Emission, News, OneMore
from llamahost.engine.reader import Reader, Unread

STALL_S = 60.0
N_UNREAD = 1024
"""A reader is ended when more tokens than N_UNREAD wait and it has read nothing for longer than STALL_S."""

REST = 3.0
"""Times as long as a pass took, nothing is told: a worker whose step ends meanwhile has the GIL at once."""

PAUSE_S = 0.025
"""The longest pause between two passes: some 40 times a second every stream is told of, whatever the load."""

TICK_S = 0.001
"""What is left of a pause that is shorter is no pause: loops keep time in milliseconds."""

FEW = 8
"""A pass with less news than this is over in a tenth of a millisecond, which is not worth measuring."""

N_WAKES = 64
"""Readers that a turn of the loop wakes, some milliseconds of work: whoever else waits for the loop comes between two.

A worker does not wait for that end. It asks for the GIL after `sys.getswitchinterval()`, and is given it; but only in a
turn that lasts longer: between two of them the loop lets go of the GIL and has it again before a thread on another core
has woken up, and whoever waits then begins anew to count.
"""

N_TURNS = 3
"""Of the loop, from a pass to the end of what it began: readers run, what they hand on is sent, the loop writes it."""


class Outbox:
    """`publish` from any thread; all else owned by the loop.

    law: the news of a pass is told before that of the next, and a pass takes all that has arrived
    law: a pass that took t, until its readers have told what it brought them, is followed by no other for REST times
    as long: up to PAUSE_S, and down to TICK_S, so that news of a few streams is never held
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        stall_s: float = STALL_S,
        n_unread: int = N_UNREAD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stall_s = stall_s
        self.n_unread = n_unread
        self._loop = loop
        self._clock = clock
        self._unread: dict[int, Unread] = {}  # by job, of those that somebody reads
        self._arrived: deque[list[News]] = deque()
        self._stirred: deque[Reader] = deque()  # to be woken
        self._is_woken = False  # a pass will come, or is under way
        self._is_passing = False
        self._not_before = 0.0

    def publish(self, news: list[News]) -> None:
        """Hand over the news of one step. Never waits; on a closed loop it does nothing."""
        if not news:
            return
        self._arrived.append(news)
        # Whoever reads True here appended before `_told` took the flag down, and it takes the flag down before it
        # looks into the deque: so the news is seen. Two wake-ups where one would do are harmless.
        if self._is_woken:
            return
        self._is_woken = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: nobody is left to read
            self._is_woken = False
            self._arrived.clear()

    def open(self, job_ids: Iterable[int], on_stalled: Callable[[], None] = lambda: None) -> Reader:
        """A reader of these jobs, before they are submitted. `on_stalled` is called when too much waits too long."""
        reader = Reader(self, self._loop, job_ids, on_stalled)
        for job_id in reader.open_ids:
            self._unread[job_id] = Unread(job_id, reader)
        return reader

    def forget(self, job_id: int) -> None:
        """Deliver no more of this job to anyone. Idempotent."""
        self._unread.pop(job_id, None)

    def _wake(self) -> None:
        if self._is_passing:
            return  # `_told` will look into the deque
        self._is_passing = True
        pause_s = self._not_before - self._clock()
        if pause_s >= TICK_S:
            self._loop.call_later(pause_s, self._pass)
        else:
            self._pass()

    def _pass(self) -> None:
        began, n = self._clock(), 0
        runs: dict[int, list[OneMore]] = {}  # steps of the same streams, by the identity of the list that names them
        try:
            while self._arrived:
                for each in self._arrived.popleft():
                    if isinstance(each, OneMore):
                        runs.setdefault(id(each.job_ids), []).append(each)
                        n += len(each.job_ids)
                    else:  # in order: what came before an end is told before it
                        self._pass_on(runs)
                        self._pass_one(each)
                        n += 1
            self._pass_on(runs)
        finally:
            self._tell(began, N_TURNS if n >= FEW else 0)

    def _tell(self, began: float, n_turns: int) -> None:
        stirred = self._stirred
        for _ in range(min(len(stirred), N_WAKES)):
            stirred.popleft().wake()
        if stirred:
            self._loop.call_soon(self._tell, began, n_turns)
        else:
            self._told(began, n_turns)

    def _pass_on(self, runs: dict[int, list[OneMore]]) -> None:
        """Each stream has the tokens of its steps at once."""
        find, n_max = self._unread.get, self.n_unread
        for run in runs.values():
            at, n = run[-1].at, len(run)
            for job_id, tokens in zip(run[0].job_ids, zip(*[each.tokens for each in run], strict=True), strict=True):
                unread = find(job_id)
                if unread is None:
                    continue
                reader = unread.reader
                if not unread.tokens and not unread.emissions and reader.has(unread):
                    self._stirred.append(reader)
                unread.tokens += tokens
                unread.at = at
                reader.n_unread += n
                if reader.n_unread > n_max:
                    reader.check_stall()
        runs.clear()

    def _pass_one(self, emission: Emission) -> None:
        unread = self._unread.get(emission.job_id)
        if unread is not None:
            reader = unread.reader
            if not unread.tokens and not unread.emissions and reader.has(unread):
                self._stirred.append(reader)
            unread.add(emission)
            reader.n_unread += len(emission.tokens)
            if reader.n_unread > self.n_unread:
                reader.check_stall()

    def _told(self, began: float, n_turns: int) -> None:
        """Some turns of the loop later the readers have run, and what they made of it is written."""
        if n_turns:
            self._loop.call_soon(self._told, began, n_turns - 1)
            return
        now = self._clock()
        self._not_before = now + min(REST * (now - began), PAUSE_S)
        self._is_passing = self._is_woken = False
        if self._arrived:
            self._is_woken = True
            self._loop.call_soon(self._wake)
