"""The laws of the scheduler, one by one, on a backend that asserts the laws of plans."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from llamahost.core.work import NO_ADAPTERS, Adapters, Job, Plan
from llamahost.engine.adapters import TURN_S
from llamahost.engine.budget import FIRST_CHUNK
from llamahost.engine.limits import Limits
from tests.engine.driving import JUDGE, LAYOUTS, POET, Drive, drive, plan_of, prompt
from tests.fakes import FakeBackend, alone, one_by_one, per_token

# One job.


@LAYOUTS
def test_one_job_is_answered_and_leaves_nothing_but_its_kv(layout: dict[str, Any]) -> None:
    d = drive(**layout)
    job = d.add(prompt(300), n_max=20)
    d.run()
    d.check_answers()
    assert len(d.answers[job]) == 20
    assert d.last[job].finish == "length"
    assert d.scheduler.n_cells_used == 300 + 19


def test_times_tell_when_it_arrived_was_admitted_and_answered() -> None:
    d = drive(n_slots=1, cost=lambda _: 1.0)
    d.backend.now = 10.0
    first = d.add(prompt(5), n_max=3)
    second = d.add(prompt(5, 1), n_max=2)
    d.run()
    assert (t := d.last[first].times) == type(t)(arrived=10.0, admitted=10.0, first=11.0, last=13.0)
    assert (t := d.last[second].times) == type(t)(arrived=10.0, admitted=13.0, first=14.0, last=15.0)


def test_every_emission_tells_the_time_of_its_last_token() -> None:
    """Whoever ends a job at a stop string has no later one to read how long it took."""
    d = drive(cost=lambda _: 1.0)
    job = d.add(prompt(5), n_max=10)
    lasts = []
    for _ in range(4):
        plan = d.scheduler.plan(d.backend.now)
        assert plan is not None
        (emission,) = one_by_one(d.scheduler.commit(plan, d.backend.run(plan), d.backend.now, 1.0))
        lasts.append(emission.times.last)
    assert lasts == [1.0, 2.0, 3.0, 4.0]
    aborted = d.scheduler.abort(job)
    assert aborted is not None
    assert (aborted.times.first, aborted.times.last) == (1.0, 4.0)


def test_a_token_that_ends_is_counted_and_not_shown() -> None:
    d = drive()
    tokens = prompt(30)
    answer = alone(Job(id=1, tokens=array("i", tokens), n_max=10), 1024)
    end = next(token for token in answer[3:] if token not in answer[:3])
    job = d.add(tokens, n_max=10, end_ids=frozenset({end}))
    d.run()
    assert d.answers[job] == answer[: answer.index(end)]
    assert (d.last[job].finish, d.last[job].n_hidden) == ("stop", 1)


def test_the_context_ends_a_job_and_every_position_is_used() -> None:
    d = drive(n_ctx=64)
    job = d.add(prompt(60), n_max=1000)
    d.run()
    assert d.last[job].finish == "length"
    assert len(d.answers[job]) == 5  # positions 60 .. 63 are computed, and the last of them is sampled too
    full = d.add(prompt(64, 1), n_max=1000)
    d.run()
    assert len(d.answers[full]) == 1
    d.check_answers()


@LAYOUTS
def test_a_job_that_generates_nothing_computes_its_prompt_for_the_next(layout: dict[str, Any]) -> None:
    d = drive(**layout)
    warm = d.add(prompt(300), n_max=0)
    one = d.add(prompt(1, 1), n_max=0)
    d.run()
    assert [(d.answers[job], d.last[job].finish) for job in (warm, one)] == [([], "length")] * 2
    assert d.last[warm].times.first == d.last[warm].times.last > 0.0
    late = d.add([*prompt(300), 7], n_max=3)
    d.run()
    assert d.cached(late) == 300
    d.check_answers()


def test_who_wants_to_know_is_told_of_every_chunk_but_the_last() -> None:
    """That one's news is the first token."""
    d = drive(cost=lambda _: 1.0)
    first = d.add(prompt(100), n_max=1)
    d.run()
    asked, silent = d.add(prompt(350), n_max=2, tells_progress=True), d.add(prompt(350, 1), n_max=2)
    told: list[tuple[int, int, int]] = []
    while (plan := d.scheduler.plan(d.backend.now)) is not None:
        spans = {span.job_id: span.start + len(span.tokens) for span in plan.spans}
        emissions = d.scheduler.commit(plan, d.backend.run(plan), d.backend.now, 1.0)
        d.note(emissions)
        for emission in one_by_one(emissions):
            if emission.n_processed:
                told.append((emission.job_id, emission.n_cached, emission.n_processed))
                assert emission.n_processed == spans[emission.job_id] < 350
                assert emission.times.last == d.backend.now
    assert len(told) > 1
    assert {(job, n_cached) for job, n_cached, _ in told} == {(asked, 100)}
    assert first != silent
    d.check_answers()


# Prompts that are scored.


@LAYOUTS
def test_a_scored_prompt_is_computed_anew_and_stays_for_the_next(layout: dict[str, Any]) -> None:
    d = drive(**layout, n_rows=16)
    first = d.add(prompt(300), n_max=3)
    d.run(until=first)
    d.add([*prompt(200), 5], n_max=100)
    scored = d.add(prompt(290), n_max=3, n_prompt_logprobs=1)
    d.run()
    assert d.cached(scored) == 0
    assert len(d.scores[scored]) == 289
    late = d.add([*prompt(290), *d.answers[scored], 9], n_max=3)
    d.run()
    assert d.cached(late) >= 290
    d.check_answers()


def test_a_prompts_scores_are_told_as_they_are_computed() -> None:
    """Whoever reads them late has them in fewer pieces: over a socket that depends on how busy the machine is."""
    d = drive(n_rows=64)
    scored = d.add(prompt(140), n_max=1, n_prompt_logprobs=1)
    n_told = []
    while scored not in d.last:
        d.step()
        n_told.append(len(d.scores[scored]))
    assert len(set(n_told)) > 2
    assert n_told[-1] == 139
    d.run()
    d.check_answers()


def test_many_scored_prompts_never_ask_for_more_rows_than_there_are() -> None:
    """The backend asserts it. Each of the running may want a row besides, and drafts leave them."""
    d = drive(n_slots=8, n_rows=9)
    for seed in range(3):
        d.add(prompt(3, seed), n_max=60, script="? 1 2 3 4 5 " * 10, n_logprobs=0)
    for seed in range(3, 7):
        d.add(prompt(50 + seed, seed), n_max=seed % 2, n_prompt_logprobs=0)
    d.add(prompt(200, 7), n_max=3)
    d.run()
    d.check_answers()


@pytest.mark.slow
def test_a_scored_prompt_holds_no_stream_up_for_longer_than_a_step_should_take() -> None:
    """Rows cost twenty times a token: a chunk of them is so much smaller."""
    rows_s = 0.002

    def cost(plan: Plan) -> float:
        return 0.001 + 0.0001 * plan.n_tokens + rows_s * sum(len(span.scored) for span in plan.spans)

    d = drive(n_ctx=4096, n_batch=1024, n_rows=1024, cost=cost)
    stream = d.add(prompt(5), n_max=2000)
    for seed in (1, 2):
        d.add(prompt(3000, seed), n_max=1, n_prompt_logprobs=1)
    d.add(prompt(3000, 3), n_max=1)
    waits: list[float] = []
    while stream not in d.last:
        began = d.backend.now
        d.step()
        waits.append(d.backend.now - began)
    assert max(waits[20:]) <= 0.05 * 1.5, "after a few steps the price is known"
    d.run()
    d.check_answers()


def test_what_can_never_run_is_refused() -> None:
    d = drive(n_ctx=64)
    for tokens in ([], prompt(65)):
        with pytest.raises(ValueError, match="tokens"):
            d.scheduler.add(Job(id=1, tokens=array("i", tokens), n_max=1), 0.0)
    with pytest.raises(ValueError, match="generate"):
        d.scheduler.add(Job(id=1, tokens=array("i", [1]), n_max=-1), 0.0)
    d.scheduler.add(Job(id=1, tokens=array("i", [1]), n_max=1), 0.0)
    with pytest.raises(ValueError, match="already"):
        d.scheduler.add(Job(id=1, tokens=array("i", [1]), n_max=1), 0.0)


def test_a_scheduler_that_could_not_keep_its_laws_is_not_made() -> None:
    with pytest.raises(ValueError, match="n_batch"):
        Limits(n_ctx=64, n_slots=8, n_batch=7, n_rows=8, n_cells=512)
    with pytest.raises(ValueError, match="n_rows"):
        Limits(n_ctx=64, n_slots=8, n_batch=64, n_rows=7, n_cells=512)
    with pytest.raises(ValueError, match="n_cells"):
        Limits(n_ctx=64, n_slots=8, n_batch=64, n_rows=64, n_cells=63, is_unified=True)


def test_the_jobs_own_tokens_are_never_changed() -> None:
    d = drive()
    job = d.add(prompt(30), n_max=10)
    d.run()
    assert d.jobs[job].tokens == array("i", prompt(30))


def test_nothing_to_do_is_no_plan() -> None:
    d = drive()
    assert d.scheduler.plan(0.0) is None
    d.add(prompt(10), n_max=1)
    d.run()
    assert d.scheduler.plan(0.0) is None


# Abort.


def test_abort_frees_the_slot_before_the_next_plan() -> None:
    d = drive(n_slots=1)
    first = d.add(prompt(200), n_max=100)
    second = d.add(prompt(50, 1), n_max=5)
    d.step()
    d.abort(first)
    assert d.scheduler.n_running == 0
    plan = d.step()
    assert plan is not None
    assert plan.ends == (first,)
    assert plan.spans[0].job_id == second
    d.run()
    d.check_answers()


def test_abort_is_idempotent_and_knows_no_strangers() -> None:
    d = drive()
    job = d.add(prompt(10))
    assert d.scheduler.abort(job) is not None
    assert d.scheduler.abort(job) is None
    assert d.scheduler.abort(12345) is None
    assert d.scheduler.is_idle, "a job that never began needs no end"


def test_an_aborted_prompt_is_a_cache_also_of_the_step_under_way() -> None:
    d = drive(n_ctx=4096, n_batch=1024, cost=per_token(0.001, 0.0005))
    job = d.add(prompt(3000), n_max=5)
    d.step()
    d.step(abort_under_way=[job])
    assert d.last[job].finish == "cancelled"
    n_computed = d.backend.n_computed
    again = d.add(prompt(3000), n_max=5)
    d.run()
    assert d.cached(again) == n_computed > FIRST_CHUNK
    d.check_answers()


# Sharing the steps.


def test_a_long_prompt_never_stalls_streams_for_longer_than_one_chunk() -> None:
    d = drive(n_ctx=8192, n_batch=2048, cost=per_token(0.002, 0.0002))
    streams = [d.add(prompt(20, seed), n_max=80) for seed in (1, 2)]
    for _ in range(10):
        d.step()
    long = d.add(prompt(4000, 3), n_max=5)
    while long not in d.last:
        before = d.backend.now
        counts = [len(d.answers[job]) for job in streams]
        d.step()
        assert d.backend.now - before <= 0.05 * 1.3
        assert [len(d.answers[job]) for job in streams] == [n + 1 for n in counts]
    d.run()
    d.check_answers()


def test_a_short_prompt_behind_a_long_one_starts_within_two_chunks() -> None:
    d = drive(n_ctx=8192, n_batch=2048, cost=per_token(0.002, 0.0002))
    d.add(prompt(30, 9), n_max=2)
    d.run()  # the prices are known
    long = d.add(prompt(4096, 1), n_max=5)
    for _ in range(3):
        d.step()
    short = d.add(prompt(20, 2), n_max=5)
    d.step()
    d.step()
    assert len(d.answers[short]) >= 1
    assert d.answers[long] == []
    d.run()
    d.check_answers()


@pytest.mark.parametrize("n_logprobs", [None, 0])
def test_forced_tokens_hardly_delay_a_stream_without_a_constraint(n_logprobs: int | None) -> None:
    drive = Drive(FakeBackend(n_slots=4, cost=per_token(0.02, 0.001)))
    script = "? " + " ".join(["1 2 3 4 5 6 7 8 9 10 ?"] * 6)
    for seed in range(3):
        drive.add(prompt(20, seed), n_max=60, script=script, n_logprobs=n_logprobs)
    unwatched = drive.run()[1:]
    assert max(plan.n_tokens for plan in unwatched) == 3 * 11, "what nobody waits for comes at once"
    free = drive.add(prompt(20, 9), n_max=60)
    drive.step()
    for seed in range(3):
        drive.add(prompt(20, seed), n_max=60, script=script, n_logprobs=n_logprobs)
    drive.step()
    beside = drive.run(until=free)[1:]
    assert max(plan.n_tokens for plan in beside) <= 4 + 1, "a token each, and a 50th of what steps took before"
    drive.run()
    drive.check_answers()


def test_prompts_of_equal_age_get_equal_chunks() -> None:
    d = drive(n_ctx=2048, n_batch=512, cost=per_token(0.001, 0.0001))
    for seed in range(4):
        d.add(prompt(1500, seed), n_max=2)
    for _ in range(5):
        plan = d.step()
        assert plan is not None
        assert len({len(span.tokens) for span in plan.spans}) == 1


def test_higher_priority_goes_first_and_else_who_came_first() -> None:
    d = drive(n_slots=1)
    jobs = [d.add(prompt(10, seed), n_max=2, priority=priority) for seed, priority in enumerate([0, 0, 5, 1, 5])]
    plans = d.run()
    order = sorted(jobs, key=lambda job: plan_of(plans, job))
    assert order == [jobs[2], jobs[4], jobs[3], jobs[0], jobs[1]]


def test_adapters_take_turns_and_never_share_a_plan_or_a_prefix() -> None:
    d = drive(cost=per_token(0.4 * TURN_S, 0.0))
    for adapters in (NO_ADAPTERS, POET, POET, JUDGE):
        d.add(prompt(100), n_max=20, adapters=adapters)
    plans = [plan for plan in d.run() if plan.spans]
    d.check_answers()
    turns = [NO_ADAPTERS] * 3 + [POET] * 3 + [JUDGE] * 3
    assert [plan.adapters for plan in plans[:18]] == turns * 2
    assert [len(plan.spans) for plan in plans[3:6]] == [1, 2, 2], "a burst with one prompt computes it once"


def test_newcomers_with_adapters_of_their_own_do_not_pass_those_that_wait() -> None:
    d = drive(n_slots=3, cost=per_token(TURN_S, 0.0))
    d.add(prompt(10), n_max=10)
    d.add(prompt(10), n_max=10, adapters=POET)
    had: list[Adapters] = []
    for k in range(12):
        d.add(prompt(10, k), n_max=1, adapters=((100 + k, 1.0),))
        plan = d.step()
        assert plan is not None
        had.append(plan.adapters)
    assert had.count(NO_ADAPTERS) >= 4
    assert had.count(POET) >= 4
