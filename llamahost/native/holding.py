"""Hold the rows of a step to the grammars of their jobs, and their thoughts to a limit. Knows matchers, rows and
chains; knows no llguidance and no C.

A row of a held job is one of three: free (no grammar, or before a trigger), forced (the grammar leaves one token, or
thoughts must close: nothing is chosen), or masked. What is forced after a chosen token is told with it, and taken as
come, unless the job wants logprobs: then it is only told, comes back as drafts, and each of them has a row of its own
to read its logprob from.

law: whoever is held is answered the same whether or not it wants logprobs
law: a grammar that gives up, or takes too long, ends its own job, with what it said
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter, thread_time
from typing import Any, NamedTuple

import numpy as np

from llamahost.core.errors import InvalidRequest
from llamahost.core.work import Job
from llamahost.native.constraint import ConstraintFailed, Grammars, Matcher, Words
from llamahost.native.rows import Chooser, Row
from llamahost.native.sampling import SamplerChain
from llamahost.native.thoughts import Thoughts

SLOW_S = 0.02
"""A mask takes 0.1 ms, and a token as long; a row for which they take more than this of the processor is slow, and the
masks of its job are looked up alone."""

PATIENCE_S = 2.0
"""What a job's grammar may take in slow rows in all: every other stream waits meanwhile."""

_MAX_RESAMPLED = 16


class Followed(NamedTuple):
    """What came of one row of a held job."""

    token: int
    forced: tuple[int, ...] = ()
    is_complete: bool = False
    error: str = ""


class Holding:
    """Owned by the worker thread. The matchers of the jobs that run, and the masks of the step under way."""

    def __init__(
        self, grammars: Grammars, *, n_rows: int, n_threads: int, clock: Callable[[], float] = thread_time
    ) -> None:
        self._clock = clock  # of this thread alone: that others take the processor is no fault of a grammar
        self._grammars = grammars
        self._n_threads = n_threads
        self._held: dict[int, _Held] = {}
        self._words: Words = np.zeros((0, grammars.n_words), np.int32)
        self._one: Words = np.zeros(grammars.n_words, np.int32)
        self._n_rows = n_rows
        self._executor: Any = None

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def begin(self, job: Job) -> None:
        """From now on the job is held, if it has a constraint or a limit to its thoughts."""
        if job.constraint is None and job.thoughts is None:
            return
        held = _Held(is_told_only=job.n_logprobs is not None)
        if job.thoughts is not None:
            held.thoughts = Thoughts(job.thoughts, self._grammars.pieces)
        try:
            if job.constraint is not None:
                held.matcher = self._grammars.matcher(job.constraint)
            held.forced = held.next()
        except (InvalidRequest, ConstraintFailed) as error:
            held.error = str(error)
        self._held[job.id] = held

    def end(self, job_id: int) -> None:
        """Idempotent, and strangers are no matter."""
        self._held.pop(job_id, None)

    def close(self) -> None:
        """Let every matcher go. Idempotent."""
        self._held.clear()

    def look(self, job_ids: Sequence[int]) -> None:
        """Compute the masks of these jobs' next rows: while a device decodes, where it does that by itself."""
        wanted = [held for id_ in job_ids if (held := self._held.get(id_)) is not None and held.wants_mask]
        if not wanted:
            return
        if len(self._words) < len(wanted):
            self._words = np.zeros((max(len(wanted), self._n_rows), self._grammars.n_words), np.int32)
        alone = [held for held in wanted if held.is_slow or len(wanted) == 1]
        together = [held for held in wanted if not held.is_slow] if len(wanted) > 1 else []
        for held, words in zip((*alone, *together), self._words, strict=False):
            held.mask = words
        for held in alone:
            held.look_alone(self._clock)
        if together:
            self._look_together(together, len(alone))

    def mask(self, job_id: int) -> Words | None:
        """What was looked up for the job's next row; None where anything may come, or nothing is to be chosen."""
        held = self._held.get(job_id)
        return held.mask if held is not None and held.wants_mask else None

    def is_chosen(self, job_id: int) -> bool:
        """Whether a token is to be chosen for the job's next row, or is known already."""
        held = self._held.get(job_id)
        return held is None or not (held.forced or held.error)

    def follow(self, job_id: int, token: int, chooser: Chooser, chain: SamplerChain, row: Row) -> Followed:
        """The job's next row: `token` was chosen for it, or it was known before."""
        held = self._held[job_id]
        mask, held.mask = held.mask, None
        if held.error:
            return Followed(token, error=held.error)
        try:
            if held.forced:
                token = held.forced[0]
            elif not held.stands(token):
                token = _another(held, token, chooser, chain, row, mask)
            began = self._clock()
            followed = self._come(held, chain, token)
            held.took(self._clock() - began)
            return followed
        except ConstraintFailed as error:
            held.error = str(error)
            return Followed(token, error=held.error)

    def look_at_one(self, job_id: int) -> None:
        """The mask of a further row of a job in the same step."""
        held = self._held.get(job_id)
        if held is not None and held.wants_mask:
            held.mask = self._one
            held.look_alone(self._clock)

    def _come(self, held: _Held, chain: SamplerChain, token: int) -> Followed:
        """The token, and what is forced from here on: that is taken as come, unless it is only to be told."""
        held.accept(token)
        chain.accept(token)
        held.forced = held.forced[1:] or held.next()
        if held.is_told_only:
            return Followed(token, held.forced, held.is_complete)
        came: tuple[int, ...] = ()
        for _ in range(2):  # behind thoughts that were closed a grammar may begin
            if held.forced:
                held.accept(*held.forced)
                came, held.forced = came + held.forced, held.next()
        if chain.window:
            for one in came:
                chain.accept(one)
        return Followed(token, came, held.is_complete)

    def _look_together(self, together: list[_Held], first: int) -> None:
        """All at once: each call lets the GIL go, and with a busy loop it takes a switch interval to come back."""
        if self._executor is None:
            from llamahost.native.constraint import executor

            self._executor = executor(self._n_threads)
        pairs = [(held.matcher.compiled, first + k) for k, held in enumerate(together) if held.matcher is not None]
        began = perf_counter()  # other threads compute them: more than one of them takes is a suspicion, and no more
        self._executor.unsafe_compute_mask_ptr(pairs, self._words.ctypes.data, self._words.strides[0], len(self._words))
        is_slow = perf_counter() - began > SLOW_S
        for held in together:
            held.is_slow = is_slow
            held.check()


class _Held:
    """One job. `forced` is what must come next and has not been told or come yet."""

    __slots__ = ("error", "forced", "is_slow", "is_told_only", "mask", "mask_s", "matcher", "slow_s", "thoughts")

    def __init__(self, *, is_told_only: bool) -> None:
        self.matcher: Matcher | None = None  # None: there is no grammar
        self.thoughts: Thoughts | None = None  # None: there is no limit to them
        self.forced: tuple[int, ...] = ()
        self.mask: Words | None = None
        self.error = ""
        self.is_told_only = is_told_only
        self.is_slow = False
        self.mask_s = 0.0  # of the next row, where it was looked up alone
        self.slow_s = 0.0  # of all slow rows

    @property
    def wants_mask(self) -> bool:
        matcher = self.matcher
        return not (self.error or self.forced or matcher is None or matcher.is_free or matcher.is_complete)

    @property
    def is_complete(self) -> bool:
        return self.matcher is not None and self.matcher.is_complete

    def stands(self, token: int) -> bool:
        """Whether a token can come that was chosen from what the mask leaves, or while free."""
        if self.thoughts is not None and not self.thoughts.stands(token):
            return False
        return self.matcher is None or self.matcher.stands(token)

    def accept(self, *tokens: int) -> None:
        """Raises ConstraintFailed."""
        if self.matcher is not None:
            self.matcher.accept(*tokens)
        if self.thoughts is not None:
            for token in tokens:
                self.thoughts.take(token)

    def next(self) -> tuple[int, ...]:
        """What must come now: the end of thoughts that are too long, or what the grammar leaves no choice about."""
        closing = () if self.thoughts is None or self.is_complete else self.thoughts.closing()
        return closing or (self.matcher.forced() if self.matcher is not None else ())

    def look_alone(self, clock: Callable[[], float]) -> None:
        assert self.matcher is not None
        assert self.mask is not None
        began = clock()
        try:
            self.matcher.mask(self.mask)
        except ConstraintFailed as error:
            self.error = str(error)
        self.mask_s = clock() - began

    def took(self, followed_s: float) -> None:
        """A row is done, and its token was followed so long. Raises ConstraintFailed."""
        row_s, was_alone, self.mask_s = self.mask_s + followed_s, self.mask_s > 0.0, 0.0
        if row_s <= SLOW_S:
            self.is_slow &= not was_alone  # else it is suspected as before
            return
        self.is_slow = True
        self.slow_s += row_s
        if self.slow_s > PATIENCE_S:
            raise ConstraintFailed("the grammar takes too long: it is ambiguous, or too large")

    def check(self) -> None:
        assert self.matcher is not None
        try:
            self.matcher.check()
        except ConstraintFailed as error:
            self.error = str(error)


def _another(held: _Held, token: int, chooser: Chooser, chain: SamplerChain, row: Row, mask: Words | None) -> int:
    """A token that completes a trigger may hold more than the grammar can begin with, and no thought may open once
    their limit is reached: then another is chosen.
    """
    row = np.array(row)
    for _ in range(_MAX_RESAMPLED):
        row[token] = -np.inf
        token = chooser.choose(chain, row, 0, mask)
        if held.stands(token):
            return token
    raise ConstraintFailed("no token that may come here fits the grammar")
