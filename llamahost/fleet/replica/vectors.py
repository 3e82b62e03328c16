"""One model's vectors as the loop asks for them: a job in, its vectors out. Knows futures; knows no text."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from llamahost.core.backend import EmbedBackend
from llamahost.core.errors import GenerationFailed, NotBegun
from llamahost.core.work import Embedded, EmbedJob, Vector
from llamahost.engine.embedder import Embedder
from llamahost.engine.engine import EngineStats
from llamahost.engine.worker import Worker
from llamahost.fleet.replica.stream import MayGo, never


class Vectors:
    """Owned by the loop that makes it. `on_lost` is called in the worker's thread, when the context is gone."""

    def __init__(
        self, backend: EmbedBackend, worker: Worker, *, target_step_s: float, on_lost: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self._waiting: dict[int, asyncio.Future[tuple[Vector, ...]]] = {}
        self._may_go: dict[int, MayGo] = {}  # the same jobs
        self._refusal: Exception | None = None
        self._ended: deque[Embedded] = deque()  # the worker's thread puts them there, the loop takes them
        self._is_told = False  # the loop will look
        self._embedder = Embedder(
            backend,
            self._publish,
            target_step_s=target_step_s,
            is_alone=lambda: worker.n_engines == 1,
            is_sole=lambda: worker.is_sole(self._embedder),
            on_lost=on_lost,
        )
        worker.attach(self._embedder)

    @property
    def stats(self) -> EngineStats:
        return self._embedder.stats

    async def of(self, job: EmbedJob, may_go: MayGo = never) -> tuple[Vector, ...]:
        """The job's vectors. Whoever stops waiting aborts it. Raises GenerationFailed, and what it was refused with."""
        if self._refusal is not None:  # since the job was prepared
            raise self._refusal
        future: asyncio.Future[tuple[Vector, ...]] = self._loop.create_future()
        self._waiting[job.id], self._may_go[job.id] = future, may_go
        self._worker.submit(self._embedder, job)
        try:
            return await future
        finally:
            del self._waiting[job.id], self._may_go[job.id]
            if not future.done() or future.cancelled() or future.exception() is not None:
                self._worker.abort(self._embedder, job.id)

    def refuse(self, error: Exception) -> None:
        """Nobody waits any longer, now or later."""
        self._refusal = error
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)

    def let_go(self, why: str) -> None:
        """End the waiting of those who have no part in the step that runs, and may go."""
        doing = self._embedder.doing
        in_step = doing.job_ids if doing is not None else ()
        for job_id, future in self._waiting.items():
            if not future.done() and job_id not in in_step and self._may_go[job_id](False):
                future.set_exception(NotBegun(why))

    def detach(self) -> Future[None]:
        """Take the context off the worker; done when it is freed."""
        return self._worker.detach(self._embedder)

    def _publish(self, embedded: Embedded) -> None:
        """In the worker's thread. What ends in one step wakes the loop once."""
        # Proof that none is left lying: it lies there before the mark is read, and the loop takes the mark away before
        # it takes what lies there.
        self._ended.append(embedded)
        if not self._is_told:
            self._is_told = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._is_told = False
        while self._ended:
            embedded = self._ended.popleft()
            future = self._waiting.get(embedded.job_id)
            if future is None or future.done():
                continue
            if embedded.error:
                future.set_exception(GenerationFailed(embedded.error))
            else:
                future.set_result(embedded.vectors)
