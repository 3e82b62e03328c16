"""A backend that keeps the laws of `core.work.Plan` by asserting them, and computes with a hash.

What a slot holds are cells; a cell's value is a hash of its token and of the cell before it, as a transformer's KV
depends on all that stands before. A sampled token is a hash of the last cell, the job's seed and how often the job was
sampled, so any mistake in a copy, a truncation, a restore or a sampler shows in what a job is answered.
"""

from __future__ import annotations

import threading
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise, takewhile

from llamahost.core.errors import BackendLost, NoRoom
from llamahost.core.work import (
    Adapters,
    Emission,
    Job,
    News,
    OneEach,
    OneMore,
    Plan,
    RowLogprobs,
    Sampled,
    Span,
    Times,
    Tokens,
)
from tests.on_loop import LIMIT_S

N_VOCAB = 64


@dataclass(slots=True, eq=False)
class Cell:
    """One position's KV; shared by reference in unified KV, so identity is what is counted."""

    token: int
    value: int


@dataclass(slots=True)
class FakeSampler:
    """`n_come` counts the tokens that came, sampled or forced: the place in the job's script."""

    job: Job
    n_sampled: int = 0
    n_come: int = 0

    @property
    def script(self) -> list[str]:
        """A constraint's grammar is read as one word a token: `?` any, a number that token alone, `.` nothing more,
        `!` the grammar gives up. After the last word all is free.
        """
        return [] if self.job.constraint is None else self.job.constraint.grammar.split()

    def forced(self) -> tuple[int, ...]:
        """The tokens that must come next."""
        return tuple(int(word) for word in takewhile(str.isdecimal, self.script[self.n_come :]))

    def word(self) -> str:
        script = self.script
        return script[self.n_come] if self.n_come < len(script) else "?"

    def next(self, value: int) -> int:
        """The token of a row whose cell has this value."""
        forced = self.forced()
        token = forced[0] if forced else next_token(value, self)
        self.n_sampled += not forced
        self.n_come += 1
        return token


@cache
def _named(adapters: Adapters) -> bytes:
    return repr(adapters).encode()


def next_value(before: int, token: int, adapters: Adapters) -> int:
    return zlib.crc32(b"%d %d %s" % (before, token, _named(adapters)))


def next_token(value: int, sampler: FakeSampler) -> int:
    seed = sampler.job.sampling.seed or 0
    return zlib.crc32(b"%d %d %d" % (value, seed, sampler.n_sampled)) % N_VOCAB


def scored_row(value: int, token: int, n: int) -> RowLogprobs:
    """How likely `token` was after a cell of this value, and `n` others."""
    top = tuple((t, -float(zlib.crc32(b"%d %d" % (value, t)) % 1000)) for t in range(n))
    return RowLogprobs(-float(zlib.crc32(b"%d %d" % (value, token)) % 1000), top)


def scored_alone(job: Job) -> list[RowLogprobs]:
    """The scores of the job's prompt by an empty backend; none where none are wanted."""
    if job.n_prompt_logprobs is None:
        return []
    rows, value = list[RowLogprobs](), 0
    for token, after in pairwise(job.tokens):
        value = next_value(value, token, job.adapters)
        rows.append(scored_row(value, after, job.n_prompt_logprobs))
    return rows


def alone(job: Job, n_ctx: int) -> list[int]:
    """What the job is answered by an empty backend, the token that ends it left out; and up to where it fails."""
    value = 0
    for token in job.tokens:
        value = next_value(value, token, job.adapters)
    n, answer, sampler = len(job.tokens), list[int](), FakeSampler(job)
    while job.n_max and sampler.word() not in (".", "!"):
        token = sampler.next(value)
        if token in job.end_ids:
            return answer
        answer.append(token)
        n += 1
        if len(answer) >= job.n_max or n > n_ctx:
            return answer
        value = next_value(value, token, job.adapters)
    return answer


def one_by_one(news: Iterable[News]) -> list[Emission]:
    """The same news, with an emission for every job in it."""
    told: list[Emission] = []
    for each in news:
        if isinstance(each, OneMore):
            times = Times(last=each.at)
            told += [Emission(k, (token,), times=times) for k, token in zip(each.job_ids, each.tokens, strict=True)]
        else:
            told.append(each)
    return told


def per_token(base_s: float, token_s: float) -> Callable[[Plan], float]:
    """A step costs so much, and so much more for each token."""
    return lambda plan: base_s + token_s * plan.n_tokens if plan.spans else 0.0


@dataclass
class FakeBackend:
    """Keeps the laws of core.backend.Backend. `now` is a clock that its steps advance by `cost`.

    `failures` are raised by the step of that number (from 0): NoRoom after all that precedes the decode, BackendError
    with half of the decode done, BackendLost at once and from then on. With `fails_late` an error leaves `collect`.
    """

    n_ctx: int = 256
    n_slots: int = 4
    n_batch: int = 64
    n_rows: int = 0  # 0: n_batch
    n_cells: int = 0  # 0: n_ctx * n_slots
    is_unified: bool = False
    can_truncate: bool = True
    overlaps: bool = False
    cost: Callable[[Plan], float] = field(default=lambda _: 0.001)
    failures: Mapping[int, Exception] = field(default_factory=dict)
    fails_late: bool = False
    now: float = 0.0
    is_closed: bool = False
    n_steps: int = 0
    n_computed: int = 0  # tokens decoded, over all steps
    n_refused: int = 0  # plans for which there really were no cells
    plans: list[Plan] = field(default_factory=list)
    freed_adapters: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.n_cells = self.n_cells or self.n_ctx * self.n_slots
        self.n_rows = self.n_rows or self.n_batch
        self._slots: list[list[Cell]] = [[] for _ in range(self.n_slots)]
        self._tokens: list[Tokens] = [
            array("i") for _ in range(self.n_slots)
        ]  # of these cells: asked for at every step
        self._saved: dict[int, list[Cell]] = {}
        self._samplers: dict[int, FakeSampler] = {}
        self._launched: Plan | None = None
        self._pending: Exception | None = None
        self._failing = deque[Exception]()
        self._is_lost = False

    @property
    def n_cells_used(self) -> int:
        return len(set[Cell]().union(*self._slots)) if self.is_unified else sum(map(len, self._slots))

    @property
    def n_kept_for_jobs(self) -> int:
        """Samplers and saved states: none may be left when all jobs have ended."""
        return len(self._samplers) + len(self._saved)

    def holds(self, slot: int) -> Tokens:
        return self._tokens[slot][:]

    def _hold(self, slot: int, cells: list[Cell]) -> None:
        self._slots[slot], self._tokens[slot] = cells, array("i", [cell.token for cell in cells])

    def fail_next(self, error: Exception) -> None:
        """From any thread, whatever step the worker has come to meanwhile."""
        self._failing.append(error)

    def launch(self, plan: Plan) -> None:
        assert not self.is_closed, "launch after close"
        assert self._launched is None, "launch before collect"
        self.plans.append(plan)
        self._check(plan)
        failure = self._failing.popleft() if self._failing else self.failures.get(self.n_steps)
        self.n_steps += 1
        self.now += self.cost(plan)
        if self._is_lost or isinstance(failure, BackendLost):
            self._is_lost = True
            raise failure or BackendLost("lost for good")
        self._begin(plan)
        self._move(plan)
        if isinstance(failure, NoRoom):
            raise failure
        if failure is not None and not self.fails_late:
            for span in plan.spans[: len(plan.spans) // 2]:
                self._compute(span, plan.adapters)
            raise failure
        if self.is_unified and self.n_cells_used + plan.n_tokens > self.n_cells:
            self.n_refused += 1
            raise NoRoom(f"{self.n_cells_used} + {plan.n_tokens} > {self.n_cells} cells")
        for span in plan.spans:
            self._compute(span, plan.adapters)
        self._launched, self._pending = plan, failure

    def collect(self) -> Sequence[Sampled]:
        plan, self._launched = self._launched, None
        assert plan is not None, "collect without a launch"
        if self._pending is not None:
            failure, self._pending = self._pending, None
            raise failure
        sampled = [self._sample(span) for span in plan.spans if span.n_rows or span.scored]
        for job_id in plan.ends:
            self._samplers.pop(job_id, None)
            self._saved.pop(job_id, None)
        if sampled and all(each == Sampled(each.job_id, each.tokens[:1]) and each.tokens for each in sampled):
            return OneEach([each.job_id for each in sampled], [each.tokens[0] for each in sampled])
        return sampled

    def free_adapter(self, id_: int) -> None:
        assert all(all(id_ != known for known, _ in s.job.adapters) for s in self._samplers.values()), "in use"
        self.freed_adapters.append(id_)

    def close(self) -> None:
        self.is_closed = True

    def run(self, plan: Plan) -> Sequence[Sampled]:
        self.launch(plan)
        return self.collect()

    def _check(self, plan: Plan) -> None:
        slots = [span.slot for span in plan.spans]
        assert slots == sorted(set(slots)), "spans must ascend by slot, one a slot"
        assert plan.n_tokens <= self.n_batch, "more tokens than a batch holds"
        n_rows = sum(span.n_rows + len(span.scored) for span in plan.spans)
        assert n_rows <= self.n_rows, "more rows than there is room for"
        moved = [save.slot for save in plan.saves] + [restore.slot for restore in plan.restores]
        sources, targets = {c.source for c in plan.copies}, {c.target for c in plan.copies}
        assert len(targets) == len(plan.copies), "two copies into one slot"
        assert not (sources | targets) & set(moved), "a slot is copied and saved or restored"
        assert not sources & targets, "the target of a copy is the source of another"
        cut = [truncation.slot for truncation in plan.truncations]
        assert len(cut) == len(set(cut)), "a slot is cut twice"
        for index in (*slots, *moved, *sources, *targets, *cut):
            assert 0 <= index < self.n_slots, "no such slot"
        if plan.copies:
            assert plan.spans, "a copy is carried out by the decode of its plan"

    def _begin(self, plan: Plan) -> None:
        for job in plan.begins:
            assert job.id not in self._samplers, f"job {job.id} begins twice"
            self._samplers[job.id] = FakeSampler(job)

    def _move(self, plan: Plan) -> None:
        for save in plan.saves:
            assert self._slots[save.slot], "nothing to save"
            assert save.job_id not in self._saved, "saved twice"
            self._saved[save.job_id] = self._slots[save.slot]
            self._hold(save.slot, [])
        for restore in plan.restores:
            self._hold(restore.slot, [Cell(c.token, c.value) for c in self._saved.pop(restore.job_id)])
            assert not self.is_unified or self.n_cells_used <= self.n_cells, "no cells for a saved state"
        for copy in plan.copies:
            source = self._slots[copy.source]
            assert 0 < copy.n <= len(source), "a copy of more than there is"
            assert self.can_truncate or copy.n == len(source), "this memory is copied whole"
            head = source[: copy.n]
            self._hold(copy.target, head if self.is_unified else [Cell(c.token, c.value) for c in head])
        for truncation in plan.truncations:
            held = self._slots[truncation.slot]
            assert self.can_truncate or truncation.n in (0, len(held)), "this memory cannot be cut"
            assert 0 <= truncation.n <= len(held) or truncation.n == 0, "cut to more than there is"
            self._hold(truncation.slot, held[: truncation.n])

    def _compute(self, span: Span, adapters: Adapters) -> None:
        held = self._slots[span.slot]
        sampler = self._samplers.get(span.job_id)
        assert sampler is not None, f"job {span.job_id} has not begun"
        assert sampler.job.adapters == adapters, "a plan of other adapters"
        assert len(span.tokens) > 0, "an empty span"
        assert span.start == len(held), f"slot {span.slot} holds {len(held)} positions, not {span.start}"
        assert span.start + len(span.tokens) <= self.n_ctx, "beyond the context"
        assert 0 <= span.n_rows <= len(span.tokens) - len(span.scored), "more rows than tokens"
        self.n_computed += len(span.tokens)
        value = held[-1].value if held else 0
        for token in span.tokens:
            value = next_value(value, token, adapters)
            held.append(Cell(token, value))
        self._tokens[span.slot].extend(span.tokens)

    def _sample(self, span: Span) -> Sampled:
        """Rows but the last are drafts: accepted while they are what would have been sampled."""
        sampler = self._samplers[span.job_id]
        held = self._slots[span.slot]
        n_scored = sampler.job.n_prompt_logprobs or 0
        scored = (scored_row(held[span.start + k].value, t, n_scored) for k, t in enumerate(span.scored))
        tokens: list[int] = []
        for place in range(len(held) - span.n_rows, len(held)):
            if sampler.word() == "!":
                return Sampled(span.job_id, (), scored=tuple(scored), error="the grammar gave up")
            token = sampler.next(held[place].value)
            tokens.append(token)
            if sampler.word() == ".":
                break
            if place + 1 < len(held) and held[place + 1].token != token:
                break
        n_logprobs = sampler.job.n_logprobs
        top = tuple((t, -float(t)) for t in range(n_logprobs or 0))
        logprobs = () if n_logprobs is None else tuple(RowLogprobs(-1.0, top) for _ in tokens)
        forced = sampler.forced() if span.n_rows else ()
        if n_logprobs is None:
            sampler.n_come += len(forced)
        is_complete = bool(span.n_rows) and sampler.word() == "."
        return Sampled(span.job_id, tuple(tokens), logprobs, tuple(scored), forced, is_complete)


class Gated(FakeBackend):
    """A backend whose launches wait to be let through, one at a time, when the gate is shut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.is_shut = True

    def launch(self, plan: Plan) -> None:
        self.entered.release()
        if self.is_shut:
            assert self.gate.acquire(timeout=LIMIT_S)
        super().launch(plan)

    def open(self) -> None:
        self.is_shut = False
        self.gate.release()

    def shut(self) -> None:
        """No step runs, nor will one be let through that was not asked for."""
        self.is_shut = True
        while self.gate.acquire(blocking=False):
            pass
