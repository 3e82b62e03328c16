"""What came of a few jobs and was not read yet, and the one task that reads it. Knows job ids and tokens; no thread.

What is unread is merged, so a slow reader costs memory only up to its jobs' `n_max` and to what was asked of their
prompts, and one that stalls too long with too much unread is ended.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Protocol

from llamahost.core.errors import GenerationFailed
from llamahost.core.work import Emission, RowLogprobs, Times

_new = tuple.__new__  # a named tuple by its own constructor takes twice as long


def merge(emissions: list[Emission]) -> Emission:
    """One emission that says what these, of one job and in order, said."""
    last = emissions[-1]
    if len(emissions) == 1:
        return last
    tokens: list[int] = []
    logprobs: list[RowLogprobs] = []
    of_prompt: list[RowLogprobs] = []
    n_cached = n_hidden = n_processed = 0
    for emission in emissions:
        tokens += emission.tokens
        logprobs += emission.logprobs
        of_prompt += emission.prompt_logprobs
        n_cached = max(n_cached, emission.n_cached)
        n_hidden += emission.n_hidden
        n_processed = max(n_processed, emission.n_processed)
    return Emission(
        last.job_id,
        tuple(tokens),
        tuple(logprobs),
        n_cached,
        n_hidden,
        last.finish,
        last.error,
        last.times,
        tuple(of_prompt),
        n_processed,
    )


class Unread:
    """Owned by the loop. What has come of one job: emissions, then tokens of which there is nothing more to say."""

    __slots__ = ("at", "emissions", "job_id", "reader", "times", "tokens")

    def __init__(self, job_id: int, reader: Reader) -> None:
        self.job_id = job_id
        self.reader = reader
        self.emissions: list[Emission] = []
        self.tokens: tuple[int, ...] = ()
        self.at = 0.0  # when the last of `tokens` came
        self.times = Times()  # of the last emission

    @property
    def n_tokens(self) -> int:
        return sum(len(emission.tokens) for emission in self.emissions) + len(self.tokens)

    def add(self, emission: Emission) -> None:
        if self.tokens:
            self.emissions.append(self._of_tokens())
        self.emissions.append(emission)
        self.times = emission.times

    def take(self) -> Emission:
        """All of it, as one."""
        if not self.emissions:
            return self._of_tokens()
        if self.tokens:
            self.emissions.append(self._of_tokens())
        emissions, self.emissions = self.emissions, []
        return merge(emissions)

    def _of_tokens(self) -> Emission:
        arrived, admitted, first, _ = self.times
        self.times = times = _new(Times, (arrived, admitted, first, self.at))
        emission = _new(Emission, (self.job_id, self.tokens, (), 0, 0, None, "", times, (), 0))
        self.tokens = ()
        return emission


def _nobody() -> None:
    """Who is told that a closed reader stalls."""


class Source(Protocol):
    """Where a reader's news comes from: `outbox.Outbox`."""

    stall_s: float
    n_unread: int

    def forget(self, job_id: int) -> None:
        """Deliver no more of this job to anyone. Idempotent."""
        ...


class Reader:
    """The emissions of a few jobs, in order within each job. Owned by the loop; one task reads it.

    Iteration ends when every job has had its last emission, or has been dropped; a failed one raises GenerationFailed.
    A read that is cancelled before it is woken loses nothing.
    """

    __slots__ = (
        "_error",
        "_loop",
        "_on_stalled",
        "_open",
        "_source",
        "_unread",
        "_unread_since",
        "_waiter",
        "n_unread",
    )

    def __init__(
        self, source: Source, loop: asyncio.AbstractEventLoop, job_ids: Iterable[int], on_stalled: Callable[[], None]
    ) -> None:
        self._source = source
        self._loop = loop
        self._open = set(job_ids)
        self._on_stalled = on_stalled
        self._unread: list[Unread] = []  # the longest unread first
        self.n_unread = 0  # tokens
        self._unread_since = 0.0
        self._waiter: asyncio.Future[Emission] | None = None
        self._error: Exception | None = None

    def __aiter__(self) -> Reader:
        return self

    def __anext__(self) -> asyncio.Future[Emission]:
        """A future, and no coroutine: what wakes whoever reads goes through no frame of this."""
        self._waiter = waiter = self._loop.create_future()
        if self._unread or self._error is not None or not self._open:
            self.wake()
        return waiter

    def drop(self, job_id: int) -> None:
        """Want no more of this job: what is unread of it is forgotten, what comes is not kept."""
        for unread in self._unread:
            if unread.job_id == job_id:
                self._unread.remove(unread)
                self.n_unread -= unread.n_tokens
                self._unread_since = 0.0
                break
        self._close(job_id)
        if not self._open:
            self.wake()

    def fail(self, error: Exception) -> None:
        """End now: forget what is unread, and raise `error` at the next read and ever after. The first error stays."""
        if self._error is None:
            self._error = error
        self._unread.clear()
        self.n_unread = 0
        self.close()
        self.wake()

    def close(self) -> None:
        """Keep nothing that comes from now on. Idempotent."""
        for job_id in tuple(self._open):
            self._close(job_id)
        self._on_stalled = _nobody  # whoever that was knows this

    @property
    def open_ids(self) -> frozenset[int]:
        """The jobs whose last emission has been neither read nor dropped."""
        return frozenset(self._open)

    def has(self, unread: Unread) -> bool:
        """Something is about to come of a job of which all was read. Called by the outbox alone; True: wake it."""
        self._unread.append(unread)
        return len(self._unread) == 1

    def check_stall(self) -> None:
        """Too much is unread: for how long? Called by the outbox alone."""
        now = self._loop.time()
        if self._unread_since == 0.0:  # the clock is read here only, not for each token of a reader that keeps up
            self._unread_since = now
        elif now - self._unread_since > self._source.stall_s:
            self._unread_since = math.inf  # it is told once
            self._loop.call_soon(self._on_stalled)  # what it does is no part of a pass, which has news of others

    def _close(self, job_id: int) -> None:
        self._open.discard(job_id)
        self._source.forget(job_id)

    def wake(self) -> None:
        """Give what there is to whoever waits for it, if anybody does."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():  # its reading was cancelled
            return
        if self._unread:
            emission = self._unread.pop(0).take()
            self._unread_since = 0.0  # whoever reads does not stall: each job's turn comes
            self.n_unread -= len(emission.tokens)
            if emission.finish is not None:
                self._close(emission.job_id)
                if emission.finish == "failed":
                    waiter.set_exception(GenerationFailed(emission.error))
                    return
            waiter.set_result(emission)
        elif self._error is not None:
            waiter.set_exception(self._error)
        elif not self._open:
            waiter.set_exception(StopAsyncIteration)
        else:  # by the time of its turn it had come by itself, and waits for what comes next
            self._waiter = waiter
