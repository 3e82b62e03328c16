"""The emissions of a few jobs of one replica, as long as somebody wants them.

*Cancellation has one door*: whoever leaves a Stream (client gone, timeout, stop string, `break`, shutdown) aborts what
is unfinished of its jobs. Knows job ids and errors; knows no text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Container, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from llamahost.core.errors import DeadlineExceeded, NotBegun, NotRead
from llamahost.core.work import Job
from llamahost.engine.outbox import Outbox
from llamahost.engine.reader import Reader

MayGo: TypeAlias = Callable[[bool], bool]
"""Whether who waits could be answered elsewhere by now; True asks for a replica of the same model."""


def never(beside: bool) -> bool:
    """Where it is, and nowhere else."""
    return False


class Submits(Protocol):
    """What a stream asks of its replica: `replica.Replica` is such."""

    outbox: Outbox

    def enter(self, stream: Stream) -> Exception | None: ...

    def leave(self, stream: Stream) -> None: ...

    def submit(self, job: Job) -> None: ...

    def abort(self, job_id: int) -> None: ...


class Stream:
    """The emissions of a few jobs: `with replica.stream(jobs) as stream: async for emission in stream`.

    Owned by the loop. Leaving the `with` aborts what is unfinished. Raises GenerationFailed, and DeadlineExceeded.
    """

    def __init__(self, replica: Submits, jobs: Sequence[Job], may_go: MayGo) -> None:
        self._replica = replica
        self._jobs = jobs
        self._may_go = may_go
        self._reader: Reader = replica.outbox.open([job.id for job in jobs], self._stalled)
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        refusal = self._replica.enter(self)
        if refusal is not None:
            self.fail(refusal)
            return self
        for job in self._jobs:
            self._replica.submit(job)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._abort()
        self._reader.close()
        self._replica.leave(self)

    def __aiter__(self) -> Reader:
        return self._reader

    def expire_at(self, deadline: float, timeout_s: float) -> None:
        """End with DeadlineExceeded at this time of the loop's clock."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(deadline, lambda: self.fail(DeadlineExceeded(timeout_s)))

    def drop(self, job_id: int) -> None:
        """Want no more of this job: it is aborted, the others go on."""
        if job_id in self._reader.open_ids:
            self._replica.abort(job_id)
            self._reader.drop(job_id)

    def let_go(self, in_step: Container[int], why: str) -> None:
        """End it with NotBegun, if none of its jobs is one of these, and it may go."""
        if not any(job.id in in_step for job in self._jobs) and self._may_go(False):
            self.fail(NotBegun(why))

    def spare(self, waiting: Collection[int]) -> int:
        """End it with NotBegun, if its jobs are of these and it may go to another replica. How many they are."""
        n = len(self._jobs)
        is_whole = len(self._reader.open_ids) == n and all(job.id in waiting for job in self._jobs)
        if not is_whole or not self._may_go(True):
            return 0
        self.fail(NotBegun("it waits here, and others have fewer"))
        return n

    def fail(self, error: Exception) -> None:
        """Abort now, whether or not anybody is reading; the reader gets `error`."""
        self._abort()
        self._reader.fail(error)

    def _stalled(self) -> None:
        self.fail(NotRead("the answer was not read for too long"))

    def _abort(self) -> None:
        for job_id in self._reader.open_ids:
            self._replica.abort(job_id)
