"""What becomes of a load: one that fails, is lost, is called off, or is made old by other settings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from llamahost.fleet.memory.residency import BACKOFF_S, LOST_AGAIN_S
from llamahost.fleet.memory.settle import AGAIN_S, MAX_BACKOFF_S
from tests.fleet.memory.world import MB, World, facts, spec, world


def test_an_unload_during_a_load_takes_it_away_as_soon_as_it_is_there() -> None:
    w = world(spec("a"), a=10)
    w.ask("a")
    w.look()
    w.do(w.residency.unload("a", w.now))
    assert w.n_refused == 1
    w.load()
    assert (w.up(), w.unloads) == (set(), ["a#0"])
    w.settle()
    w.ask("a")
    w.settle()
    assert w.n_served == 1


def test_a_load_that_fails_is_tried_ever_later_and_hurts_nobody_else() -> None:
    w = world(spec("bad"), spec("good"), bad=10, good=10)
    w.ask("good")
    w.settle()
    for backoff in (BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S):
        w.ask("bad")
        w.look() if w.looks else None
        w.fail()
        w.ask("bad")
        assert not w.loads
        assert w.refusals[-1].retry_after_s == pytest.approx(backoff)
        assert w.refusals[-1].reason == "broken"
        w.now += backoff
    assert w.up() == {"good#0"}


def test_what_is_to_be_there_from_the_start_is_tried_again_though_nobody_asks_until_it_is_there_or_unloaded() -> None:
    w = world(spec("bad", load="start"), spec("good"), bad=10, good=10)
    w.do(w.residency.begin(w.now))
    for backoff in (BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S):
        w.look()
        w.fail()
        assert (w.looks, w.residency.next_at()) == ([], w.now + backoff)
        w.now += backoff
        w.do(w.residency.tick(w.now))
    for _ in range(9):
        w.do(w.residency.failed_look(w.looks.pop(), "not to be had", w.now))
        assert w.residency.next_at() <= w.now + MAX_BACKOFF_S
        w.now = w.residency.next_at()
        w.do(w.residency.tick(w.now))
    w.settle()
    assert w.up() == {"bad#0"}
    w.do(w.residency.unload("bad", w.now))
    w.unload()
    assert (w.up(), w.residency.next_at()) == (set(), math.inf)


def test_what_is_to_be_there_from_the_start_and_found_no_room_looks_for_some_again_and_drives_nobody_out() -> None:
    w = world(spec("a", load="start"), spec("b", load="start"), budget=100, a=60, b=60)
    w.do(w.residency.begin(w.now))
    w.settle()
    assert (w.up(), [each.name for each in w.refusals]) == ({"a#0"}, ["b"])
    for is_there in (False, True):
        if is_there:
            w.do(w.residency.unload("a", w.now))
            w.unload()
        assert w.residency.next_at() == w.now + AGAIN_S
        w.now += AGAIN_S
        w.do(w.residency.tick(w.now))
        w.settle()
    assert (w.up(), w.residency.next_at()) == ({"b#0"}, math.inf)


def test_what_could_not_be_loaded_is_tried_again_when_the_manifest_is_read_again() -> None:
    w = world(spec("bad", load="start"), spec("large", load="start"), bad=10, large=900)
    w.do(w.residency.begin(w.now))
    w.look()
    w.look()
    w.fail()
    assert {each.name for each in w.refusals} == {"bad", "large"}
    assert (w.looks, w.loads) == ([], [])
    w.do(w.residency.adopt(w.specs, w.now))
    assert (w.looks, w.loads) == ([], []), "by another model's change alone nothing comes sooner"
    w.residency.try_again(w.now)
    w.do(w.residency.adopt(w.specs, w.now))
    assert {each.name for each in w.looks} == {"bad", "large"}
    w.settle()
    assert w.up() == {"bad#0"}


def test_where_memory_was_short_in_truth_a_smaller_shape_is_tried_at_once() -> None:
    w = world(spec("a", n_ctx=None, n_slots=None), budget=1000, a=10)
    w.sizes["a"] = replace(facts(10), cell_bytes=1000.0)
    w.ask("a")
    w.look()
    first = w.loads[0].spec
    w.fail(is_memory=True)
    assert w.loads[0].spec.n_cells is not None
    assert w.loads[0].spec.n_ctx == first.n_ctx
    w.settle()
    assert w.n_served == 1


def test_a_lost_replica_comes_back_and_later_where_it_is_lost_again() -> None:
    w = world(spec("a"), a=10)
    w.ask("a")
    w.settle()
    w.do(w.residency.lost("a#0", "gone", w.now))
    w.settle()
    w.now = w.residency.next_at()
    w.do(w.residency.tick(w.now))
    assert w.residency.next_at() == math.inf
    w.settle()
    assert w.up() == {"a#0"}
    w.do(w.residency.lost("a#0", "gone", w.now))
    w.settle()
    assert w.residency.next_at() == w.now + LOST_AGAIN_S
    assert "again" in w.residency.models["a"].reason


def test_the_second_replica_comes_back_too() -> None:
    w = world(spec("a", replicas=2), a=10)
    w.ask("a")
    w.settle()
    assert w.up() == {"a#0", "a#1"}
    w.do(w.residency.lost("a#1", "gone", w.now))
    w.settle()
    assert w.up() == {"a#0"}
    assert w.residency.models["a"].n_lacking == 1
    w.now = w.residency.next_at()
    w.do(w.residency.tick(w.now))
    assert w.residency.next_at() == math.inf
    w.settle()
    assert w.up() == {"a#0", "a#1"}
    assert w.residency.models["a"].n_lacking == 0


def test_only_what_changed_in_the_manifest_is_touched() -> None:
    a, b, c = spec("a"), spec("b"), spec("c")
    w = world(a, b, c, a=10, b=10, c=10, d=10)
    for name in "abc":
        w.ask(name)
        w.settle()
    w.do(w.residency.adopt([replace(a, idle_s=99.0), replace(b, n_ctx=128), spec("d", load="start")], w.now))
    assert w.up() == {"a#0", "b#0"}, "b answers until it is there as it should be"
    w.settle()
    assert w.up() == {"a#0", "b#1", "d#0"}
    assert w.residency.models.keys() == {"a", "b", "d"}
    assert w.residency.models["b"].replicas[0].placement.shape.n_ctx == 128  # type: ignore[union-attr]  # it is known


def test_what_was_seen_of_another_file_counts_for_nothing() -> None:
    a = spec("a")
    w = world(a, a=10)
    w.ask("a")
    w.do(w.residency.adopt([replace(a, path=Path("other.gguf"))], w.now))
    w.look()
    assert not w.loads
    w.settle()
    assert w.n_served == 1


def test_memory_that_was_short_once_is_not_short_for_ever() -> None:
    w = world(spec("a"), a=20)
    w.ask("a")
    w.look()
    w.fail(is_memory=True)  # of the one shape that there is
    assert w.n_refused == 1
    w.ask("a")
    assert (w.n_refused, w.looks) == (2, []), "a load was tried, and is not tried with each request"
    w.now += BACKOFF_S
    w.ask("a")
    w.settle()
    assert w.n_served == 1


def test_a_file_that_did_not_fit_is_looked_at_anew() -> None:
    w = world(spec("a"), a=200)
    w.ask("a")
    w.settle()
    assert w.n_refused == 1
    w.sizes["a"] = facts(20)
    w.ask("a")
    w.settle()
    assert w.n_served == 1


def changed_under_load(mb: int, of: int = 100) -> World:
    """One model, ready and in use, whose settings have changed."""
    w = world(spec("a"), budget=of, a=mb)
    w.is_held = True
    w.ask("a")
    w.settle()
    w.do(w.residency.adopt([spec("a", n_ctx=128)], w.now))
    return w


def test_where_there_is_room_for_both_the_new_one_is_there_before_the_old_one_leaves() -> None:
    w = changed_under_load(40)
    w.look()
    assert [load.replica for load in w.loads] == ["a#1"]
    w.ask("a")
    assert w.leases == ["a#0", "a#0"], "the old one answers meanwhile"
    w.load()
    w.ask("a")
    assert (w.leases[-1], w.up()) == ("a#1", {"a#1"})
    w.is_held = False
    w.settle()
    assert w.residency.taken()["cpu"] < 50 * MB


def test_where_there_is_no_room_for_both_the_old_one_leaves_first() -> None:
    w = changed_under_load(60)
    w.look()
    assert (w.loads, w.up(), w.leases) == ([], set(), ["a#0"])
    w.is_held = False
    w.settle()
    assert w.up() == {"a#0"}
    assert w.residency.models["a"].replicas[0].placement.shape.n_ctx == 128  # type: ignore[union-attr]  # it is known


def test_what_could_never_be_in_its_place_drives_nothing_out_and_is_tried_again_ever_later() -> None:
    w = changed_under_load(40)
    w.do(w.residency.adopt([spec("a", devices=("CUDA7",))], w.now))
    w.settle()
    assert (w.up(), w.refusals[-1].reason) == ({"a#0"}, "`a` has no device: it may go on CUDA7, there are cpu")
    assert w.residency.next_at() == w.now + BACKOFF_S
    w.do(w.residency.adopt([spec("a", n_ctx=256)], w.now))
    w.look()
    w.fail()
    assert (w.up(), w.looks) == ({"a#0"}, [])
    w.now += BACKOFF_S
    w.do(w.residency.tick(w.now))
    w.settle()
    assert w.up() == {"a#1"}


def test_who_goes_back_to_the_settings_of_what_is_there_has_it_again() -> None:
    w = changed_under_load(40)
    w.look()
    w.do(w.residency.adopt([spec("a")], w.now))
    w.settle()
    assert w.up() == {"a#0"}


def test_what_was_measured_of_other_settings_counts_no_more() -> None:
    w = world(spec("a"), a=20)
    w.ask("a")
    w.look()
    w.load(measured=30 * MB)
    w.settle()
    w.do(w.residency.adopt([spec("a", kv_type_k="f32")], w.now))
    w.settle()
    (replica,) = w.residency.models["a"].replicas
    assert replica.bytes["cpu"] < 25 * MB
