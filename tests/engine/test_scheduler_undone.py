"""Steps that come to less than was planned: failures, no room, drafts that were wrong."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from llamahost.core.errors import BackendError, BackendLost, NoRoom
from llamahost.core.work import Job, Times
from llamahost.engine.sequence import Sequence
from llamahost.engine.slots import Slots
from tests.engine.driving import drive, prompt


def test_a_failed_step_costs_the_jobs_of_its_plan_alone() -> None:
    d = drive(n_slots=2, failures={2: BackendError("bad luck")})
    jobs = [d.add(prompt(100, seed), n_max=5) for seed in range(3)]
    d.run()
    d.check_answers()
    assert [d.last[job].finish for job in jobs] == ["failed", "failed", "length"]
    assert d.last[jobs[0]].error == "bad luck"


@pytest.mark.parametrize("step", range(6))
def test_what_a_failed_step_touched_is_not_trusted(step: int) -> None:
    d = drive(failures={step: BackendError("bad luck")}, fails_late=step % 2 == 1)
    for _ in range(2):
        d.add(prompt(300), n_max=5)
    d.run()
    for _ in range(2):
        d.add(prompt(300), n_max=5)
    d.run()
    d.check_answers()


def test_a_lost_backend_costs_every_job() -> None:
    d = drive(n_slots=2, failures={1: BackendLost("gone")})
    jobs = [d.add(prompt(100, seed), n_max=5) for seed in range(4)]
    d.step()
    d.step()
    assert [d.last[job].finish for job in jobs] == ["failed"] * 4
    assert d.scheduler.n_running == d.scheduler.n_waiting == 0


@pytest.mark.parametrize("options", [{}, {"is_unified": True, "n_cells": 1024}], ids=["split", "unified"])
def test_no_room_fails_nobody(options: dict[str, Any]) -> None:
    d = drive(failures={step: NoRoom("full") for step in (1, 2, 3, 9, 20, 21)}, **options)
    for seed in range(6):
        d.add(prompt(150, seed), n_max=30)
    d.run()
    d.check_answers()
    assert {last.finish for last in d.last.values()} == {"length"}


def test_no_room_for_ever_ends_and_says_why() -> None:
    d = drive(n_slots=2, failures={step: NoRoom("full") for step in range(1000)})
    jobs = [d.add(prompt(150, seed), n_max=30) for seed in range(2)]
    for _ in range(100):
        if d.step() is None:
            break
    assert [d.last[job].finish for job in jobs] == ["failed", "failed"]
    assert "no cell" in d.last[jobs[0]].error


def test_a_cut_that_a_restore_makes_needless_is_forgotten() -> None:
    slots = Slots(1, is_unified=True, can_truncate=True)
    drafting, saved = (
        Sequence(Job(id=k, tokens=array("i", range(9)), n_max=9), k, array("i", range(9)), Times()) for k in (1, 2)
    )
    slots.seat(drafting, slots.all[0], 0)
    slots.computed(0, 8)
    drafting.n_computed = 5
    slots.roll_back(drafting, 8)
    slots.release(drafting)
    saved.n_computed = saved.n_saved = 6
    slots.seat_saved(saved, slots.all[0])
    assert slots.take_truncations() == ()
    slots.preempt(saved)
    assert saved.n_saved == 6


def test_after_a_failure_slots_are_cleared_before_anybody_enters() -> None:
    d = drive(n_slots=1, failures={1: BackendError("bad luck")})
    d.add(prompt(100), n_max=5)
    d.add(prompt(100, 1), n_max=5)
    d.step()
    d.step()
    plan = d.step()
    assert plan is not None
    assert not plan.begins
    assert [(cut.slot, cut.n) for cut in plan.truncations] == [(0, 0)]
    d.run()
    d.check_answers()
