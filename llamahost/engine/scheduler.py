"""Decide what runs next. Knows tokens and slots; knows no text, clock, thread or C.

A sequence has `n_computed` and a target; each step closes the gap. Every plan carries the gaps of running streams first
(a token each, and what a constraint has forced), then a chunk of what longer gaps there are, in equal shares. One plan
is under way at most: `plan`, then one of `commit`, `no_room` or `fail`; `add` and `abort` may come between.

    law: a stream waits for another's prompt no longer than one chunk
    law: every job ends exactly once, by an Emission with `finish`
    law: what a job is answered does not depend on who ran beside it, before it, or in its slot
    law: a job is never failed for want of room: it waits, or is saved and resumes before anybody else starts
    law: a prompt that is scored has each of its rows computed exactly once, whatever it is cut into
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from itertools import count

from llamahost.core.backend import Backend
from llamahost.core.work import (
    Emission,
    Finish,
    Job,
    News,
    OneEach,
    OneMore,
    Plan,
    RowLogprobs,
    Sampled,
    Save,
    Span,
    Times,
)
from llamahost.engine.accept import NOTHING, Taken, goes_on, take
from llamahost.engine.adapters import TURN_S, AdapterTurns
from llamahost.engine.admission import MIN_PROMISE, Admission, Entries
from llamahost.engine.budget import StepBudget
from llamahost.engine.limits import Limits
from llamahost.engine.room import RESERVE, Room
from llamahost.engine.sequence import Sequence
from llamahost.engine.slots import Slots
from llamahost.engine.spans import MAX_SHORT, spans_of
from llamahost.engine.steady import Steady


class Scheduler:
    """Owned by the worker thread."""

    def __init__(
        self,
        limits: Limits,
        *,
        target_step_s: float = 0.05,
        min_promise: int = MIN_PROMISE,
        n_reserve: int = RESERVE,
        adapter_turn_s: float = TURN_S,
        is_checked: bool = False,
    ) -> None:
        self.n_ctx = n_ctx = limits.n_ctx
        self.n_cells = n_cells = limits.n_cells
        self.is_checked = is_checked
        self._n_batch = n_batch = limits.n_batch
        self._n_rows = limits.n_rows
        self._max_chunk = n_batch  # less for a while after the backend had no room
        self._is_refused = False  # the backend had no room for the last plan
        self._is_unsure = False  # the last plan failed, somewhere
        self.slots = Slots(limits.n_slots, is_unified=limits.is_unified, can_truncate=limits.can_truncate)
        self._room = Room(self.slots, n_ctx=n_ctx, n_cells=n_cells, n_reserve=n_reserve)
        self._admission = Admission(self.slots, self._room, min_promise=min_promise)
        self._budget = StepBudget(target_step_s=target_step_s, n_batch=n_batch)
        self._sequences: dict[int, Sequence] = {}  # every job that has not ended
        self._ends: list[int] = []
        self._saves: list[Save] = []
        self._under_way: Plan | None = None
        self._order = count()
        self._adapters = AdapterTurns(turn_s=adapter_turn_s)
        self._steady: Steady | None = None  # of all that run, while they do nothing else than go on

    @classmethod
    def for_backend(cls, backend: Backend, *, target_step_s: float = 0.05, is_checked: bool = False) -> Scheduler:
        return cls(Limits.of(backend), target_step_s=target_step_s, is_checked=is_checked)

    @property
    def n_running(self) -> int:
        return self.slots.n_running

    @property
    def n_waiting(self) -> int:
        """Those in no slot: newcomers, and preempted ones about to resume."""
        return len(self._sequences) - self.slots.n_running

    @property
    def not_begun(self) -> frozenset[int]:
        """Newcomers that were promised nothing."""
        admission = self._admission
        return frozenset(
            each.job.id for each in admission.waiting if not each.has_begun and each not in admission.promises
        )

    @property
    def n_cells_used(self) -> int:
        """Positions that hold KV, of running sequences and of what idle slots keep."""
        return self.slots.n_cells_used + (self._steady.n_untold if self._steady is not None else 0)

    @property
    def is_idle(self) -> bool:
        """Nothing to do: `plan` would return None."""
        return not (self._sequences or self._ends or self._saves or self.slots.has_truncations)

    # What the engine tells.

    def add(self, job: Job, now: float) -> None:
        """Take a job in. Raises ValueError on one that can never run: the caller checks lengths first."""
        if not 1 <= len(job.tokens) <= self.n_ctx:
            raise ValueError(f"job {job.id} has {len(job.tokens)} tokens; a slot holds 1 to {self.n_ctx}")
        if job.n_max < 0:
            raise ValueError(f"job {job.id} may generate {job.n_max} tokens, which is less than none")
        if job.id in self._sequences:
            raise ValueError(f"job {job.id} is here already")
        sequence = Sequence(job, next(self._order), job.tokens[:], Times(arrived=now))
        self._sequences[job.id] = sequence
        self._admission.enqueue(sequence)

    def abort(self, job_id: int) -> Emission | None:
        """End a job at once; None if it has ended already. What it computed stays in its slot for the next one."""
        sequence = self._sequences.get(job_id)
        if sequence is None:
            return None
        self._unsettle()
        return self._end(sequence, "cancelled")

    def plan(self, now: float) -> Plan | None:
        """The next step, or None where there is nothing to do."""
        assert self._under_way is None, "the plan before has not come back"
        plan = self._plan_steady()
        if plan is None:
            if self.is_idle:
                return None
            plan = self._plan_anew(now)
        self._under_way = plan
        if self.is_checked:
            self.check_integrity()
        return plan

    def _plan_steady(self) -> Plan | None:
        """The last step again, one token further; None where there is more to do."""
        steady = self._steady
        if steady is None:
            return None
        if steady.running is self.slots.running and not (
            self._ends or self._saves or self.slots.has_truncations or self._admission.is_due()
        ):
            return Plan(spans=steady.spans, adapters=steady.running[0].job.adapters)
        self._unsettle()
        return None

    def _plan_anew(self, now: float) -> Plan:
        while self._room.is_short():
            self._preempt_one()
        # A plan that saves admits nobody: a slot that is saved must not be copied or restored in the same plan. Nor
        # does one that follows a refusal, or what gave way would come back at once, and so on for ever; nor one that
        # follows a failure, before which it is not known what the slots hold.
        may_enter = not (self._saves or self._is_unsure or (self._is_refused and self.n_running))
        self._is_unsure = False
        entries = self._admission.enter(now) if may_enter and self._admission.is_due() else Entries()
        adapters = self._adapters.next(self.slots.running, now)
        plan = Plan(
            spans=spans_of(
                self.slots.running,
                adapters,
                self._budget,
                n_batch=self._n_batch,
                n_rows=self._n_rows,
                max_chunk=self._max_chunk,
                stops=self._admission.stops if not self.slots.can_truncate else dict,
            ),
            begins=tuple(entries.begins),
            saves=tuple(self._saves),
            restores=tuple(entries.restores),
            copies=tuple(entries.copies),
            truncations=self.slots.take_truncations(),
            ends=tuple(self._ends),
            adapters=adapters,
        )
        assert plan.spans or plan.saves or plan.truncations or plan.ends, "there is work, and nobody may do it"
        self._saves.clear()
        self._ends.clear()
        return plan

    def commit(self, plan: Plan, sampled: Items[Sampled], now: float, step_s: float) -> list[News]:
        """The step is done: move the counts, append the tokens, end who is at an end."""
        self._come_back(plan)
        steady = self._steady
        if steady is not None and type(sampled) is OneEach and steady.take(sampled.tokens, now):
            n = len(sampled.tokens)
            assert n == len(steady.running), "the rows are not those of the spans"
            self._budget.observe(n, 0, step_s)
            self._come_round(plan)
            return [OneMore(sampled.job_ids, sampled.tokens, now)]
        self._unsettle()
        emissions: list[News] = []
        ids: list[int] = []
        tokens: list[int] = []
        answers = iter(sampled)
        n_decoding = n_chunk = n_scored = 0
        is_counted = self.slots.cells is not None
        sequences, n_ctx = self._sequences, self.n_ctx
        for span in plan.spans:
            sequence = sequences.get(span.job_id)
            answer = next(answers) if span.n_rows or span.scored else None
            assert answer is None or answer.job_id == span.job_id, "the rows are not in the order of the spans"
            if answer is not None and sequence is not None and goes_on(sequence, span, answer, now, n_ctx=n_ctx):
                ids.append(answer.job_id)
                tokens.append(answer.tokens[0])
                if is_counted:
                    self.slots.computed(span.slot, 1)
                continue
            n = len(span.tokens)
            # Either every token is sampled, so that none is of a prompt but perhaps its last; or the others are forced.
            if n == span.n_rows or (sequence is not None and sequence.n_generated and n <= MAX_SHORT):
                n_decoding += n
            elif span.scored:
                n_scored += n
            else:
                n_chunk += n
            if sequence is None:  # aborted meanwhile; what it computed is kept all the same
                self.slots.keep_more(span.slot, span.tokens)
                continue
            if is_counted:
                self.slots.computed(span.slot, n)
            if span.n_rows:
                assert answer is not None
                emissions.append(self._accept(sequence, span, answer, now))
                continue
            emission = self._grown(sequence, n, () if answer is None else answer.scored, now)
            if emission is not None:
                emissions.append(emission)
        if ids:
            emissions.append(OneMore(ids, tokens, now))
            if type(sampled) is OneEach and len(ids) == len(plan.spans) == self.n_running:
                n_steps = self._room.n_steps()
                self._steady = Steady(self.slots, n_ctx=n_ctx, n_steps=n_steps) if n_steps > 0 else None
        self._budget.observe(n_decoding + len(ids), n_chunk, step_s, n_scored)
        self._come_round(plan)
        return emissions

    def _grown(self, sequence: Sequence, n: int, scored: tuple[RowLogprobs, ...], now: float) -> Emission | None:
        """So much more of it is computed, and nothing was sampled: what is to be told of that."""
        sequence.n_computed += n
        if sequence.gap == 0:  # nothing was to be generated
            sequence.times, sequence.last = sequence.times._replace(first=now), now
            return self._end(sequence, "length", scored=scored)
        if scored or (sequence.job.tells_progress and not sequence.n_generated):
            return Emission(
                sequence.job.id,
                n_cached=sequence.n_cached,
                times=sequence.times._replace(last=now),
                prompt_logprobs=scored,
                n_processed=sequence.n_computed,
            )
        return None

    def _come_round(self, plan: Plan) -> None:
        """The step was well."""
        if self._max_chunk < self._n_batch:
            self._max_chunk = min(2 * self._max_chunk, self._n_batch)
        if plan.spans:
            self._is_refused = False
            self._room.was_enough()
        if self.is_checked:
            self.check_integrity()

    def no_room(self, plan: Plan) -> list[Emission]:
        """The decode found no cells, although the count said that it would: give up something, or plan less."""
        self._come_back(plan)
        self._unsettle()
        self._ends[:0] = plan.ends  # they come last in a step, so they were not done
        self._is_refused = True
        self._room.was_refused(plan.n_tokens)
        self._max_chunk = max(min(self._max_chunk, plan.n_tokens) // 2, 1)
        if self.slots.evict_oldest() is not None:
            return []
        if self.n_running > 1:
            self._preempt_one()
            return []
        if plan.n_tokens > 1:
            return []
        # A single token of a single sequence, and nothing else in the KV: out of reach by the laws, but never for ever.
        error = f"the backend has no cell for one sequence of {self.n_cells_used} tokens (n_cells = {self.n_cells})"
        return [self._fail(sequence, error) for sequence in list(self.slots.running)]

    def fail(self, plan: Plan, error: str) -> list[Emission]:
        """The step failed: so do its jobs, and nothing in the slots that it touched is trusted."""
        self._come_back(plan)
        self._unsettle()
        touched = {span.slot for span in plan.spans} | {copy.target for copy in plan.copies}
        touched |= {cut.slot for cut in plan.truncations}
        touched |= {save.slot for save in plan.saves} | {restore.slot for restore in plan.restores}
        ids = {span.job_id for span in plan.spans} | {job.id for job in plan.begins}
        ids |= {save.job_id for save in plan.saves}
        ids |= {s.job.id for s in self.slots.running if s.slot in touched}
        failed = [self._fail(self._sequences[id_], error) for id_ in sorted(ids) if id_ in self._sequences]
        for index in touched:
            self.slots.clear(index)
        self._is_unsure = True
        self._ends[:0] = plan.ends  # it is not known whether they were done; to end twice does no harm
        if self.is_checked:
            self.check_integrity()
        return failed

    def fail_all(self, error: str) -> list[Emission]:
        """The backend is lost: every job fails, and every slot is to be cleared."""
        self._under_way = None
        self._unsettle()
        failed = [self._fail(sequence, error) for sequence in list(self._sequences.values())]
        self._saves.clear()
        for slot in self.slots.all:
            self.slots.clear(slot.index)
        return failed

    def check_integrity(self) -> None:
        """Every invariant that can be seen from here. Cheap enough to be on in a test of any length."""
        if self._steady is not None:
            self._steady.settle()
        self.slots.check_integrity()
        self._admission.check_integrity()
        places: dict[int, int] = {}
        for sequence in (*self._admission.waiting, *self._admission.saved, *self.slots.running):
            job = sequence.job
            places[job.id] = places.get(job.id, 0) + 1
            assert self._sequences.get(job.id) is sequence, f"job {job.id} has ended and is still in a place"
            assert len(sequence.tokens) == len(job.tokens) + sequence.n_generated
            assert sequence.tokens[: len(job.tokens)] == job.tokens, f"the prompt of job {job.id} has changed"
            assert sequence.n_cached < len(job.tokens), f"the last token of job {job.id} was never computed"
            assert sequence.gap >= 1, f"job {job.id} has nothing to do and has not ended"
        assert places == dict.fromkeys(self._sequences, 1), "a job is in two places or in none"

    def _come_back(self, plan: Plan) -> None:
        assert plan is self._under_way, "this is not the plan that is under way"
        self._under_way = None

    def _unsettle(self) -> None:
        """Somebody wants to know what the sequences have, or to change it."""
        if self._steady is not None:
            self._steady.settle()
            self._steady = None

    def _preempt_one(self) -> None:
        save = self._admission.preempt_one()
        if save is not None:
            self._saves.append(save)

    def _accept(self, sequence: Sequence, span: Span, answer: Sampled, now: float) -> Emission:
        """Take what was sampled and what that forces; of what the span computed, keep what the accepted stand on."""
        if answer.error:  # what the span computed is right; but what comes next cannot be told
            return self._fail(sequence, answer.error)
        taken = take(sequence, answer, now, n_ctx=self.n_ctx, can_truncate=self.slots.can_truncate)
        n_held = span.start + len(span.tokens)
        if n_held > sequence.n_computed:
            self.slots.roll_back(sequence, n_held)
        if taken.finish is not None:
            return self._end(sequence, taken.finish, taken, scored=answer.scored)
        # Whoever ends it here, by a stop string, reads the times too.
        times = sequence.times_so_far
        return Emission(
            sequence.job.id, taken.tokens, taken.logprobs, sequence.n_cached, 0, None, "", times, answer.scored
        )

    def _end(
        self,
        sequence: Sequence,
        finish: Finish,
        taken: Taken = NOTHING,
        *,
        error: str = "",
        scored: tuple[RowLogprobs, ...] = (),
    ) -> Emission:
        job = sequence.job
        del self._sequences[job.id]
        if sequence.slot >= 0:
            self.slots.release(sequence)
            self._admission.slot_freed()
        else:
            self._admission.remove(sequence)
        if sequence.has_begun:
            self._ends.append(job.id)
        return Emission(
            job_id=job.id,
            tokens=taken.tokens,
            logprobs=taken.logprobs,
            n_cached=sequence.n_cached,
            n_hidden=taken.n_hidden,
            finish=finish,
            error=error,
            times=sequence.times_so_far,
            prompt_logprobs=scored,
        )

    def _fail(self, sequence: Sequence, error: str) -> Emission:
        index = sequence.slot
        emission = self._end(sequence, "failed", error=error)
        if index >= 0:
            self.slots.clear(index)
        return emission
