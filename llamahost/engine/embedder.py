"""Turn the inputs of many jobs into vectors, a step at a time. Knows tokens and seconds; knows no text, thread or C.

A step carries inputs of all jobs in turn, one of each until it is full, so that one with thousands holds up none with
a single one. It carries no more than what takes the target time, so that other engines of its thread get theirs; a
longer input has a step for each piece of it, one after the other, where it may be computed so.

    law: every job ends exactly once, by an Embedded, unless it was aborted
    law: a step that fails costs the jobs that had inputs in it; a lost backend costs all
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from llamahost.core.backend import EmbedBackend
from llamahost.core.errors import BackendError, BackendLost
from llamahost.core.work import Embedded, EmbedJob, Tokens, Vector
from llamahost.engine.engine import Doing, EngineStats
from llamahost.engine.pace import Pace

logger = logging.getLogger("llamahost.engine")

TARGET_STEP_S = 0.05

ALONE_FACTOR = 20
"""A step may take this many times the target where no other engine waits for the thread. One short input at a time
costs a fifth more, which a machine that is busy with other programs, where each step takes long, can afford least.
"""

SOLE_FACTOR = 4
"""A piece of a long input may take this many times the target where no other engine has work just now: newcomers still
get in soon, and small pieces cost more.
"""

FIRST_TOKENS = 64
"""On a large model and a slow device the first step takes seconds, however few they are, and others wait for it."""

MIN_PIECE = 32
"""Tokens. Fewer take hardly less time than so many."""


class _Open:
    """A job that has not ended. [0, n_taken) of its inputs are computed, or are in the step that runs."""

    __slots__ = ("job", "n_taken", "vectors")

    def __init__(self, job: EmbedJob) -> None:
        self.job = job
        self.n_taken = 0
        self.vectors: list[Vector] = []


class _Chosen(NamedTuple):
    """`compute` gives None where an input is not at its end."""

    takers: list[tuple[_Open, int]]
    n_tokens: int
    compute: Callable[[], list[Vector] | None]


class Embedder:
    """Owned by its worker's thread; `stats`, `doing` and `lost` may be read by any.

    `publish` takes the end of a job and must not wait or raise. `is_alone`: no other engine shares the thread, so a
    step may be longer, which costs less an input. `is_sole`: others do, and have no work just now.
    """

    def __init__(
        self,
        backend: EmbedBackend,
        publish: Callable[[Embedded], None],
        *,
        target_step_s: float = TARGET_STEP_S,
        is_alone: Callable[[], bool] = lambda: False,
        is_sole: Callable[[], bool] = lambda: False,
        on_lost: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = EngineStats()
        self.doing: Doing | None = None
        self.lost = ""
        self._backend = backend
        self._publish = publish
        self._target_step_s = target_step_s
        self._is_alone = is_alone
        self._is_sole = is_sole
        self._on_lost = on_lost
        self._clock = clock
        self._pace = Pace()
        self._open: dict[int, _Open] = {}  # in the order of their turns
        self._long: _Open | None = None  # whose last input taken is being computed in pieces
        self._n_done = 0  # tokens of that
        self._token_s = 0.0  # what a token costs in a step; 0.0: not known yet
        self._is_closed = False

    def submit(self, job: EmbedJob) -> None:
        """Take a job; it ends with one Embedded, whatever happens. The caller has checked the lengths."""
        if self.lost or self._is_closed:
            self._publish(Embedded(job.id, error=self.lost or "the model was closed"))
        elif not job.inputs:
            self._publish(Embedded(job.id))
        elif job.id in self._open or not all(1 <= len(tokens) <= self._backend.n_ctx for tokens in job.inputs):
            self._publish(
                Embedded(job.id, error=f"inputs have 1 to {self._backend.n_ctx} tokens, and jobs their own id")
            )
        else:
            self._open[job.id] = _Open(job)
            self._count(n_in=sum(map(len, job.inputs)))

    def abort(self, job_id: int) -> None:
        """Forget a job before the next step; nothing is published of it. Idempotent."""
        if self._open.pop(job_id, None) is not None:
            self._count()

    def step(self) -> bool:
        """Compute one step. False: there was nothing to do."""
        if self.lost or self._is_closed or not self._open:
            return False
        entered, in_backend_s = self._clock(), self.stats.backend_s
        self._step()
        then = self.stats
        host_s = self._clock() - entered - (then.backend_s - in_backend_s)
        self.stats = then._replace(host_s=then.host_s + host_s)
        return True

    def _step(self) -> None:
        takers, n_tokens, compute = self._chosen()
        began = self._clock()
        self.doing = Doing(began, self._pace.expected_s(n_tokens), [taker.job.id for taker, _ in takers])
        try:
            vectors = compute()
            if vectors is not None and len(vectors) != len(takers):
                raise BackendError(f"{len(vectors)} vectors came for {len(takers)} inputs")
        except BackendLost as error:
            logger.error("an embedding step failed: %s", error)
            self._lose(str(error))
            return
        except Exception as error:
            logger.error(
                "an embedding step failed: %s", error, exc_info=None if isinstance(error, BackendError) else error
            )
            failed = {taker.job.id for taker, _ in takers}
            self._long = None
            for job_id in failed:
                del self._open[job_id]
            self._count(n_steps=1, n_failed=1, backend_s=self._clock() - began)
            for job_id in failed:
                self._publish(Embedded(job_id, error=str(error)))
            return
        finally:
            self.doing = None
        step_s = self._clock() - began
        self._learn(n_tokens, step_s)
        if vectors is None:
            self._count(n_steps=1, backend_s=step_s)
            return
        self._long = None
        for (taker, _), vector in zip(takers, vectors, strict=True):
            taker.vectors.append(vector)
        ended = [taker for taker, index in takers if index == len(taker.job.inputs) - 1]
        for taker in ended:
            del self._open[taker.job.id]
        self._count(n_steps=1, backend_s=step_s)  # before the news: whoever reads that may look
        for taker in ended:
            self._publish(Embedded(taker.job.id, tuple(taker.vectors)))

    def flush(self) -> None:
        """Nothing is ever held back."""

    def close(self) -> None:
        """Fail the jobs that are left and free the backend. Idempotent."""
        if self._is_closed:
            return
        self._fail_all("the model was closed")
        self._is_closed = True
        self._backend.close()

    def _chosen(self) -> _Chosen:
        """What the next step computes, and of whom."""
        backend, long = self._backend, self._long
        if long is None or self._open.get(long.job.id) is not long:  # or it was aborted
            takers = self._take()
            inputs = [taker.job.inputs[index] for taker, index in takers]
            if not backend.can_split or len(inputs[0]) <= self._piece():
                self._long = None
                return _Chosen(takers, sum(map(len, inputs)), lambda: backend.embed(inputs))
            long = self._long = takers[0][0]  # the only one: there is no room beside it
            self._n_done = 0
        index = long.n_taken - 1
        tokens, start = long.job.inputs[index], self._n_done
        stop = self._n_done = min(len(tokens), start + self._piece())

        def compute() -> list[Vector] | None:
            vector = backend.embed_piece(tokens, start, stop)
            return None if vector is None else [vector]

        return _Chosen([(long, index)], stop - start, compute)

    def _piece(self) -> int:
        factor = SOLE_FACTOR if self._is_sole() else 1
        return min(self._backend.n_batch, max(MIN_PIECE, factor * self._budget()))

    def _take(self) -> list[tuple[_Open, int]]:
        """Inputs of the next step with their takers: each of those of highest priority in turn, while there is room."""
        n_left = self._budget()
        highest = max(taker.job.priority for taker in self._open.values())
        ring = [taker for taker in self._open.values() if taker.job.priority == highest]
        taken: list[tuple[_Open, int]] = []
        while ring and len(taken) < self._backend.n_inputs:
            left: list[_Open] = []
            for taker in ring:
                tokens: Tokens = taker.job.inputs[taker.n_taken]
                if taken and (len(tokens) > n_left or len(taken) >= self._backend.n_inputs):
                    continue  # it is first in a later step: those behind it do not overtake for ever
                n_left -= len(tokens)
                taken.append((taker, taker.n_taken))
                taker.n_taken += 1
                if taker.n_taken < len(taker.job.inputs):
                    left.append(taker)
            ring = left
        for taker, _ in taken:  # to the back: whoever found no room stands before them now
            self._open[taker.job.id] = self._open.pop(taker.job.id)
        return taken

    def _budget(self) -> int:
        """Tokens of a step that takes the target time; few of the first, whose price is unknown."""
        n_most = min(self._backend.n_enough, self._backend.n_batch)
        if self._token_s == 0.0:
            return min(n_most, FIRST_TOKENS)
        target_s = self._target_step_s * (ALONE_FACTOR if self._is_alone() else 1)
        return max(1, min(n_most, int(target_s / self._token_s)))

    def _learn(self, n_tokens: int, step_s: float) -> None:
        self._pace.learn(n_tokens, step_s)
        token_s = step_s / n_tokens
        if self._token_s == 0.0:
            self._token_s = token_s
        else:  # a small step pays the fixed cost of all steps with few tokens: it says little
            weight = 0.5 * min(1.0, n_tokens / self._budget())
            self._token_s += (min(token_s, 4 * self._token_s) - self._token_s) * weight

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self._on_lost(reason)
        self._fail_all(reason)

    def _fail_all(self, reason: str) -> None:
        jobs, self._open = tuple(self._open), {}
        self._count()
        for job_id in jobs:
            self._publish(Embedded(job_id, error=reason))

    def _count(self, *, n_steps: int = 0, n_failed: int = 0, n_in: int = 0, backend_s: float = 0.0) -> None:
        then = self.stats
        self.stats = EngineStats(
            n_running=len(self._open),
            n_steps=then.n_steps + n_steps,
            n_tokens_in=then.n_tokens_in + n_in,
            n_failed_steps=then.n_failed_steps + n_failed,
            host_s=then.host_s,
            backend_s=then.backend_s + backend_s,
            step_s=self._pace.recent_s,
        )
