"""Where sequences sit, what they find there, and who gives way where room is short."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from llamahost.core.work import Streams
from llamahost.engine.budget import FIRST_CHUNK
from tests.engine.driving import LAYOUTS, Drive, drive, plan_of, prompt, slots_of
from tests.fakes import FakeBackend


def test_newcomers_sit_densely_in_split_kv() -> None:
    d = drive(n_slots=8)
    jobs = [d.add(prompt(20, seed), n_max=100) for seed in range(6)]
    plan = d.step()
    assert plan is not None
    assert slots_of(plan) == [0, 1, 2, 3, 4, 5]
    d.abort(jobs[2])
    d.step()
    d.add(prompt(20, 20), n_max=100)
    plan = d.step()
    assert plan is not None
    assert slots_of(plan) == [0, 1, 2, 3, 4, 5]


@LAYOUTS
def test_a_conversation_goes_on_in_its_slot(layout: dict[str, Any]) -> None:
    d = drive(**layout)
    first = d.add(prompt(200), n_max=10)
    d.run()
    history = [*prompt(200), *d.answers[first], *prompt(30, 5)]
    second = d.add(history, n_max=10)
    plans = d.run()
    assert d.cached(second) == 209  # the last token of the answer was sampled and never computed
    assert not any(plan.copies for plan in plans)
    d.check_answers()


@LAYOUTS
@pytest.mark.parametrize("n", [2, 4])
def test_equal_prompts_at_once_are_computed_once(layout: dict[str, Any], n: int) -> None:
    d = drive(**layout)
    jobs = [d.add(prompt(500), n_max=10, seed=seed) for seed in range(n)]
    d.run()
    d.check_answers()
    assert [d.cached(job) for job in jobs] == [0] + [499] * (n - 1)
    assert d.backend.n_computed == 500 + (n - 1) + n * 9


@LAYOUTS
def test_a_shared_prefix_is_computed_once_also_when_what_follows_differs(layout: dict[str, Any]) -> None:
    d = drive(n_slots=8, **layout)
    jobs = [d.add([*prompt(600), 1 + seed, *prompt(40, seed)], n_max=10) for seed in range(8)]
    d.run()
    d.check_answers()
    assert [d.cached(job) for job in jobs] == [0] + [600] * 7


def test_a_promise_ends_with_its_source() -> None:
    d = drive()
    source = d.add(prompt(900), n_max=10)
    held = d.add(prompt(900), n_max=10)
    d.step()
    assert (d.scheduler.n_running, d.scheduler.n_waiting) == (1, 1)
    d.abort(source)
    d.run()
    d.check_answers()
    assert d.cached(held) == FIRST_CHUNK


def test_a_promise_does_not_hold_up_others() -> None:
    d = drive()
    d.add(prompt(900), n_max=10)
    held = d.add(prompt(900), n_max=10)
    other = d.add(prompt(30, 1), n_max=10)
    plans = d.run()
    assert plan_of(plans, other) < plan_of(plans, held)


def test_a_long_cache_is_not_destroyed_for_a_short_prefix() -> None:
    d = drive(n_slots=2)
    long = d.add([*prompt(40), *prompt(700, 1)], n_max=10)
    d.run()
    d.add([*prompt(40), *prompt(100, 2)], n_max=10)
    d.run()
    again = d.add([*prompt(40), *prompt(700, 1), *d.answers[long], 5], n_max=10)
    d.run()
    assert d.cached(again) == 749
    d.check_answers()


@pytest.mark.parametrize(
    ("layout", "n", "n_answer", "n_cached"),
    [
        ({}, 20, 30, 0),  # a copy costs more than it saves, and the answer that its slot holds is worth more
        ({}, 20, 5, 19),  # that slot holds little else
        ({}, 45, 30, 44),
        ({"n_slots": 1}, 20, 30, 19),  # there is no other slot
        ({"is_unified": True}, 20, 30, 19),  # shared by reference
        ({"is_unified": True}, 9, 30, 0),
    ],
)
def test_a_short_prefix_is_reused_where_that_costs_less_than_computing_it(
    layout: dict[str, Any], n: int, n_answer: int, n_cached: int
) -> None:
    d = drive(**layout)
    first = d.add(prompt(n), n_max=n_answer)
    d.run()
    again = d.add(prompt(n), n_max=3)
    d.run()
    assert d.cached(again) == n_cached
    if layout.get("n_slots") != 1 and n_answer > 5:
        goes_on = d.add([*prompt(n), *d.answers[first], 5], n_max=3)
        d.run()
        assert d.cached(goes_on) == n + n_answer - 1
    d.check_answers()


def test_the_least_recently_used_cache_is_given_up_first() -> None:
    d = drive(n_slots=2)
    for seed in (1, 2):
        d.add(prompt(300, seed), n_max=2)
        d.run()
    d.add(prompt(300, 3), n_max=2)
    d.run()
    assert d.cached(_ran(d, prompt(300, 2))) == 299
    assert d.cached(_ran(d, prompt(300, 1))) == 0


def _ran(d: Drive, tokens: list[int]) -> int:
    job = d.add(tokens, n_max=2)
    d.run()
    return job


# Unified KV: room.


def tight(n_cells: int, n_slots: int = 4, n_reserve: int = 16) -> Drive:
    backend = FakeBackend(n_ctx=256, n_slots=n_slots, n_batch=64, n_cells=n_cells, is_unified=True)
    return Drive(backend, n_reserve=n_reserve)


def test_the_newest_of_the_lowest_priority_gives_way_and_resumes_before_anybody_starts() -> None:
    d = tight(300)
    jobs = [d.add(prompt(60, seed), n_max=120, priority=priority) for seed, priority in enumerate([1, 0, 0])]
    while True:
        plan = d.step()
        assert plan is not None
        if plan.saves:
            break
    assert [save.job_id for save in plan.saves] == [jobs[2]]
    late = d.add(prompt(60, 4), n_max=5, priority=9)
    plans = d.run()
    d.check_answers()
    saves = [save.job_id for plan in plans for save in plan.saves]
    assert jobs[0] not in saves
    resumed = next(i for i, plan in enumerate(plans) for restore in plan.restores if restore.job_id == jobs[2])
    assert plan_of(plans, late) >= resumed


def test_what_idle_slots_keep_is_given_up_before_anybody_gives_way() -> None:
    d = tight(256)
    for seed in range(3):
        d.add(prompt(60, seed), n_max=5)
        d.run()
    d.add(prompt(150, 9), n_max=50)
    plans = d.run()
    d.check_answers()
    assert not any(plan.saves for plan in plans)


@pytest.mark.parametrize(
    "n_reserve", [1, 17, 40], ids=["next to nothing promised", "all cells promised", "all that comes promised"]
)
def test_streams_as_columns_count_every_cell_and_stop_where_one_might_find_none(n_reserve: int) -> None:
    backend = FakeBackend(n_ctx=64, n_slots=4, n_batch=64, is_unified=True, n_cells=100)
    d = Drive(backend, n_reserve=n_reserve, is_checked=False)  # whoever looks has them told
    for seed in range(4):
        d.add(prompt(8, seed), n_max=40)
    n_columns = 0
    while (plan := d.step()) is not None:
        n_columns += type(plan.spans) is Streams
        assert d.scheduler.slots.has_truncations or d.scheduler.n_cells_used == backend.n_cells_used
    assert n_columns > 40
    assert any(plan.saves for plan in backend.plans) == (n_reserve < 40), "somebody had to give way"
    d.check_answers()


def test_newcomers_wait_for_room_instead_of_pushing_others_out() -> None:
    d = tight(256)
    d.add(prompt(150, 1), n_max=10)
    d.add(prompt(150, 2), n_max=10)
    d.step()
    assert (d.scheduler.n_running, d.scheduler.n_waiting) == (1, 1)
    plans = d.run()
    d.check_answers()
    assert not any(plan.saves for plan in plans)


def test_a_shared_prefix_takes_cells_once() -> None:
    d = tight(300, n_slots=4)
    for seed in range(4):
        d.add([*prompt(200), 1 + seed], n_max=15, seed=seed)
    d.run()
    d.check_answers()
    assert d.backend.n_computed == 201 + 3 + 4 * 14


def test_questions_about_conversations_push_none_of_them_out() -> None:
    for is_aside in (True, False):
        drive = Drive(FakeBackend(n_slots=4, n_ctx=256))
        talks = [array("i", [k, *range(60)]) for k in range(3)]
        for talk in talks:
            drive.add(talk)
            drive.run()
            for question in range(3):
                drive.add([50 + question, talk[0], *range(9)], is_aside=is_aside)
                drive.run()
        held = [slot.kept for slot in drive.scheduler.slots.all]
        assert all(any(kept[: len(talk)] == talk for kept in held) for talk in talks) == is_aside


def test_a_question_aside_sits_beside_a_running_stream_only_where_it_destroys_less_than_that_is_worth() -> None:
    for is_aside in (True, False):
        drive = Drive(FakeBackend(n_slots=4, n_ctx=4096, n_batch=4096))
        for tokens in ([1] * 3000, [2] * 40, [3] * 3000):
            drive.add(tokens, n_max=1)
        drive.run()
        assert [slot.n > 2048 for slot in drive.scheduler.slots.all] == [True, False, True, False]
        drive.add([2] * 45, n_max=20)
        drive.step()
        drive.add([9] * 20, n_max=2, is_aside=is_aside)
        drive.run()
        assert (sum(slot.n > 2048 for slot in drive.scheduler.slots.all) == 2) == is_aside
