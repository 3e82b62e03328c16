"""Carry emissions from the worker threads to the event loop, with one wake-up a step, and never make a worker wait.

Knows job ids and the loop; knows no slot and no text. What is unread is merged, so a slow reader costs memory only up
to its jobs' `n_max` and to what was asked of their prompts, and one that stalls too long with too much unread is ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from llamahost.core.errors import GenerationFailed
from llamahost.core.work import Emission

STALL_S = 60.0
N_UNREAD = 1024
"""A reader is ended when more tokens than N_UNREAD wait and the oldest of them has waited longer than STALL_S."""


def merge(emissions: list[Emission]) -> Emission:
    """One emission that says what these, of one job and in order, said."""
    last = emissions[-1]
    if len(emissions) == 1:
        return last
    return Emission(
        last.job_id,
        tokens=tuple(token for emission in emissions for token in emission.tokens),
        logprobs=tuple(row for emission in emissions for row in emission.logprobs),
        n_cached=max(emission.n_cached for emission in emissions),
        n_hidden=sum(emission.n_hidden for emission in emissions),
        finish=last.finish,
        error=last.error,
        times=last.times,
        prompt_logprobs=tuple(row for emission in emissions for row in emission.prompt_logprobs),
        n_processed=max(emission.n_processed for emission in emissions),
    )


class Reader:
    """The emissions of a few jobs, in order within each job. Owned by the loop; one task reads it.

    Iteration ends when every job has had its last emission, or has been dropped; a failed one raises GenerationFailed.
    """

    __slots__ = (
        "_error",
        "_loop",
        "_n_unread",
        "_on_stalled",
        "_open",
        "_outbox",
        "_unread",
        "_unread_since",
        "_waiter",
    )

    def __init__(
        self, outbox: Outbox, loop: asyncio.AbstractEventLoop, job_ids: Iterable[int], on_stalled: Callable[[], None]
    ) -> None:
        self._outbox = outbox
        self._loop = loop
        self._open = set(job_ids)
        self._on_stalled = on_stalled
        self._unread: dict[int, list[Emission]] = {}  # by job, the longest unread first
        self._n_unread = 0
        self._unread_since = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Emission:
        while not self._unread:
            if self._error is not None:
                raise self._error
            if not self._open:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        job_id = next(iter(self._unread))
        emission = merge(self._unread.pop(job_id))
        self._n_unread -= len(emission.tokens)
        if emission.finish is not None:
            self._close(job_id)
            if emission.finish == "failed":
                raise GenerationFailed(emission.error)
        return emission

    def drop(self, job_id: int) -> None:
        """Want no more of this job: what is unread of it is forgotten, what comes is not kept."""
        self._n_unread -= sum(len(emission.tokens) for emission in self._unread.pop(job_id, ()))
        self._close(job_id)
        if not self._open:
            self._wake()

    def fail(self, error: Exception) -> None:
        """End now: forget what is unread, and raise `error` at the next read and ever after. The first error stays."""
        if self._error is None:
            self._error = error
        self._unread.clear()
        self._n_unread = 0
        self.close()
        self._wake()

    def close(self) -> None:
        """Keep nothing that comes from now on. Idempotent."""
        for job_id in tuple(self._open):
            self._close(job_id)

    @property
    def open_ids(self) -> frozenset[int]:
        """The jobs whose last emission has been neither read nor dropped."""
        return frozenset(self._open)

    def deliver(self, emission: Emission) -> None:
        """Called by the outbox alone."""
        if not self._unread:
            self._unread_since = 0.0
        self._unread.setdefault(emission.job_id, []).append(emission)
        self._n_unread += len(emission.tokens)
        if self._n_unread > self._outbox.n_unread:
            self._check_stall()
        self._wake()

    def _check_stall(self) -> None:
        now = self._loop.time()
        if self._unread_since == 0.0:  # the clock is read here only, not for each token of a reader that keeps up
            self._unread_since = now
        elif now - self._unread_since > self._outbox.stall_s:
            self._on_stalled()

    def _close(self, job_id: int) -> None:
        self._open.discard(job_id)
        self._outbox.forget(job_id)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Outbox:
    """`publish` from any thread; all else owned by the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, stall_s: float = STALL_S, n_unread: int = N_UNREAD) -> None:
        self.stall_s = stall_s
        self.n_unread = n_unread
        self._loop = loop
        self._readers: dict[int, Reader] = {}
        self._arrived: deque[list[Emission]] = deque()
        self._is_woken = False

    def publish(self, emissions: list[Emission]) -> None:
        """Hand over the news of one step. Never waits; on a closed loop it does nothing."""
        if not emissions:
            return
        self._arrived.append(emissions)
        # Whoever reads True here appended before `_deliver` took the flag down, and it takes the flag down before it
        # looks into the deque: so the news is seen. Two wake-ups where one would do are harmless.
        if self._is_woken:
            return
        self._is_woken = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody is left to read
            self._arrived.clear()

    def open(self, job_ids: Iterable[int], on_stalled: Callable[[], None] = lambda: None) -> Reader:
        """A reader of these jobs, before they are submitted. `on_stalled` is called when too much waits too long."""
        reader = Reader(self, self._loop, job_ids, on_stalled)
        for job_id in reader.open_ids:
            self._readers[job_id] = reader
        return reader

    def forget(self, job_id: int) -> None:
        """Deliver no more of this job to anyone. Idempotent."""
        self._readers.pop(job_id, None)

    @property
    def n_readers(self) -> int:
        """Jobs that somebody still reads."""
        return len(self._readers)

    def _deliver(self) -> None:
        self._is_woken = False
        readers = self._readers
        while self._arrived:
            for emission in self._arrived.popleft():
                reader = readers.get(emission.job_id)
                if reader is not None:
                    reader.deliver(emission)
