"""Drive a scheduler against the fake backend, and hold every answer against what the job gets alone."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from llamahost.core.errors import BackendError, BackendLost, NoRoom
from llamahost.core.sampling import Sampling
from llamahost.core.work import NO_ADAPTERS, Adapters, Constraint, Emission, Job, News, OneMore, Plan, RowLogprobs
from llamahost.engine.limits import Limits
from llamahost.engine.scheduler import Scheduler
from tests.fakes import FakeBackend, alone, one_by_one, scored_alone

MANY_STEPS = 20_000
POET: Adapters = ((1, 1.0),)
JUDGE: Adapters = ((1, 0.5), (2, 1.0))
LAYOUTS = pytest.mark.parametrize(
    "layout",
    [
        {},
        {"is_unified": True},
        {"can_truncate": False},
        {"is_unified": True, "can_truncate": False},
    ],
    ids=["split", "unified", "whole", "unified-whole"],
)


class Drive:
    """A scheduler, its backend, and all that was answered. The scheduler checks itself at every step, if `is_checked`:
    to look at what its streams have is to settle them.
    """

    def __init__(
        self,
        backend: FakeBackend,
        *,
        target_step_s: float = 0.05,
        n_reserve: int = 256,
        min_promise: int = 64,
        is_checked: bool = True,
    ) -> None:
        self.backend = backend
        self.scheduler = Scheduler(
            Limits.of(backend),
            target_step_s=target_step_s,
            n_reserve=n_reserve,
            min_promise=min_promise,
            is_checked=is_checked,
        )
        self.jobs: dict[int, Job] = {}
        self.answers: dict[int, list[int]] = {}
        self.scores: dict[int, list[RowLogprobs]] = {}
        self.last: dict[int, Emission] = {}

    def add(
        self,
        tokens: Iterable[int],
        *,
        n_max: int = 4,
        priority: int = 0,
        seed: int = 0,
        end_ids: frozenset[int] = frozenset(),
        adapters: Adapters = NO_ADAPTERS,
        n_prompt_logprobs: int | None = None,
        tells_progress: bool = False,
        n_logprobs: int | None = None,
        script: str = "",
        is_aside: bool = False,
    ) -> int:
        job = Job(
            id=len(self.jobs) + 100,
            tokens=array("i", tokens),
            n_max=n_max,
            priority=priority,
            sampling=Sampling(seed=seed),
            end_ids=end_ids,
            adapters=adapters,
            n_logprobs=n_logprobs,
            constraint=Constraint(grammar=script) if script else None,
            n_prompt_logprobs=n_prompt_logprobs,
            tells_progress=tells_progress,
            is_aside=is_aside,
        )
        self.jobs[job.id] = job
        self.answers[job.id] = []
        self.scores[job.id] = []
        self.scheduler.add(job, self.backend.now)
        return job.id

    def abort(self, job_id: int) -> None:
        emission = self.scheduler.abort(job_id)
        if emission is not None:
            self.note([emission])

    def step(self, *, abort_under_way: Iterable[int] = ()) -> Plan | None:
        scheduler, backend = self.scheduler, self.backend
        plan = scheduler.plan(backend.now)
        if plan is None:
            assert scheduler.is_idle, "there is work, and no plan"
            return None
        for job_id in abort_under_way:
            self.abort(job_id)
        began = backend.now
        try:
            sampled = backend.run(plan)
        except NoRoom:
            self.note(scheduler.no_room(plan))
        except BackendLost as error:
            self.note(scheduler.fail_all(str(error)))
        except BackendError as error:
            self.note(scheduler.fail(plan, str(error)))
        else:
            self.note(scheduler.commit(plan, sampled, backend.now, backend.now - began))
            if scheduler.is_checked:
                self.check_backend()
        return plan

    def run(self, *, until: int | None = None) -> list[Plan]:
        """Step until idle, or until a job has ended."""
        plans = []
        while until is None or until not in self.last:
            plan = self.step()
            if plan is None:
                break
            plans.append(plan)
            assert len(plans) < MANY_STEPS, "no end in sight"
        return plans

    def note(self, news: Sequence[News]) -> None:
        for each in news:
            if isinstance(each, OneMore):
                assert all(self.answers[id_] for id_ in each.job_ids), "the first token is told by an emission"
        for emission in one_by_one(news):
            assert emission.job_id not in self.last, f"job {emission.job_id} has ended, and goes on"
            assert not (emission.prompt_logprobs and self.answers[emission.job_id]), "the prompt is told after tokens"
            self.answers[emission.job_id] += emission.tokens
            self.scores[emission.job_id] += emission.prompt_logprobs
            if emission.finish is not None:
                self.last[emission.job_id] = emission

    def check_backend(self) -> None:
        """What the scheduler believes of every slot is what the backend holds, up to cuts that are due."""
        for slot in self.scheduler.slots.all:
            held = self.backend.holds(slot.index)
            assert held[: slot.n] == slot.tokens[: slot.n], f"slot {slot.index} is not what the scheduler believes"
            assert len(held) == slot.n or self.scheduler.slots.has_truncations
        if not self.scheduler.slots.has_truncations:
            assert self.scheduler.n_cells_used == self.backend.n_cells_used

    def check_answers(self) -> None:
        """The great law: whoever finished was answered as if alone, and the others as far as they came."""
        assert set(self.last) == set(self.jobs), "a job never ended"
        for job_id, job in self.jobs.items():
            whole, answer, last = alone(job, self.backend.n_ctx), self.answers[job_id], self.last[job_id]
            scores = scored_alone(job)
            if last.finish in ("stop", "length") or answer:
                assert self.scores[job_id] == scores, f"the prompt of job {job_id} was scored otherwise than alone"
            else:
                assert self.scores[job_id] == scores[: len(self.scores[job_id])]
            if last.finish in ("stop", "length"):
                assert answer == whole, f"job {job_id} was answered otherwise than alone"
            else:
                assert answer == whole[: len(answer)], f"job {job_id} began otherwise than alone"
        assert self.backend.n_refused == 0, "a plan counted on cells that were not there"
        assert self.scheduler.is_idle
        assert self.scheduler.n_running == self.scheduler.n_waiting == 0
        assert self.backend.n_kept_for_jobs == 0, "a sampler or a saved state was left behind"

    def cached(self, job_id: int) -> int:
        return self.last[job_id].n_cached


def prompt(n: int, seed: int = 0) -> list[int]:
    """`n` tokens that share no first token with another seed."""
    return [seed % 64, *((seed * 7 + i * i * 31 + i) % 64 for i in range(1, n))]


def drive(n_ctx: int = 1024, n_slots: int = 4, n_batch: int = 256, **options: Any) -> Drive:
    return Drive(FakeBackend(n_ctx=n_ctx, n_slots=n_slots, n_batch=n_batch, **options))


def slots_of(plan: Plan) -> list[int]:
    return [span.slot for span in plan.spans]


def plan_of(plans: list[Plan], job_id: int) -> int:
    """The number of the plan in which a job had its first row."""
    return next(i for i, plan in enumerate(plans) for span in plan.spans if span.job_id == job_id and span.n_rows)


def job_of(job_id: int, n_prompt: int = 5, n_max: int = 6, **more: Any) -> Job:
    return Job(id=job_id, tokens=array("i", [(job_id * 7 + k) % 60 for k in range(n_prompt)]), n_max=n_max, **more)
