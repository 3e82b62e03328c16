"""Laws of what is in memory: driven at random, with clocks that jump; who has room, and who leaves for whom."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from llamahost.fleet.machine.devices import Device, Trouble
from llamahost.fleet.memory.residents import PAUSE_S
from llamahost.fleet.settings.manifest import ModelSpec
from tests.fleet.memory.world import MB, World, facts, spec, world


@pytest.mark.parametrize("seed", range(16))
def test_the_laws_hold_whatever_happens(seed: int) -> None:
    """Memory is never over-committed, nothing goes under a lease, no request is lost, and all come to their end."""
    dice = random.Random(seed)
    names = [f"m{k}" for k in range(dice.randint(1, 6))]
    budgets = {f"d{k}": dice.randint(50, 150) * MB for k in range(dice.randint(1, 3))}

    def made(name: str) -> ModelSpec:
        return spec(
            name,
            load=dice.choice(["request", "request", "start"]),
            pinned=dice.random() < 0.15,
            idle_s=dice.choice([None, None, 30.0]),
            replicas=dice.choice([1, 1, 2]),
            memory_priority=dice.choice([0, 0, 1]),
            n_ctx=dice.choice([64, 64, 128]),
        )

    w = World([made(name) for name in names], {}, budgets, max_loaded=dice.choice([None, None, 2]))
    w.sizes = {name: facts(dice.randint(5, 120)) for name in names}

    def quarantine(device: str) -> None:
        w.do(w.residency.quarantine(device, "xid", w.now))

    w.do(w.residency.begin(w.now))
    for _ in range(250):
        w.now += dice.choice([0.0, 0.1, 1.0, 5.0, 100.0]) if dice.random() < 0.97 else dice.choice([-50.0, 1e6])
        doings: list[Callable[[], None]] = [
            lambda: w.ask(dice.choice(names)),
            lambda: w.do(w.residency.tick(w.now)),
        ]
        for todo, do in ((w.looks, w.look), (w.loads, w.load), (w.unloads, w.unload), (w.leases, w.release)):
            if todo:
                doings += [partial(do, dice.randrange(len(todo)))] * 3
        if w.loads and dice.random() < 0.1:
            doings.append(lambda: w.fail(is_memory=dice.random() < 0.5))
        if dice.random() < 0.03:
            doings.append(lambda: w.do(w.residency.unload(dice.choice(names), w.now)))
        if dice.random() < 0.03 and w.up():
            doings.append(lambda: w.do(w.residency.lost(dice.choice(sorted(w.up())), "lost", w.now)))
        if dice.random() < 0.02:
            doings.append(partial(quarantine, dice.choice(list(budgets))))
        if dice.random() < 0.02:
            doings.append(lambda: w.do(w.residency.adopt([made(name) for name in names], w.now)))
        dice.choice(doings)()
    for _ in range(100):
        w.settle()
        if not w.waiting:
            break
        w.now = max(w.now, min(w.residency.next_at(), 1e12)) + 1.0
        w.do(w.residency.tick(w.now))
    assert not w.waiting, "starved"
    assert w.n_asked == w.n_served + w.n_refused


def test_the_least_recently_used_leaves_and_no_more_than_it_takes() -> None:
    w = world(spec("a"), spec("b"), spec("c"), a=40, b=40, c=50)
    for name in ("a", "b"):
        w.ask(name)
        w.settle()
        w.now += 1
    w.ask("a")
    w.settle()
    w.now += 1
    w.ask("c")
    w.settle()
    assert w.up() == {"a#0", "c#0"}


def test_what_is_pinned_stays_and_the_refusal_says_the_sum() -> None:
    w = world(spec("a", pinned=True), spec("b"), a=60, b=50)
    w.ask("a")
    w.settle()
    w.ask("b")
    w.settle()
    assert w.up() == {"a#0"}
    assert "`b` does not fit: it takes at least 47.9 MiB (weights 47.7 MiB, " in w.refusals[-1].reason
    assert "of 95.4 MiB, where `a` has 57.5 MiB (pinned)" in w.refusals[-1].reason


def test_a_lower_priority_drives_nobody_out() -> None:
    w = world(spec("a", memory_priority=1), spec("b"), a=60, b=50)
    w.ask("a")
    w.settle()
    w.ask("b")
    w.settle()
    assert w.up() == {"a#0"}


def test_a_refusal_says_what_would_fit() -> None:
    w = world(spec("a", n_ctx=4096, n_slots=8, kv_layout="split"), a=10)
    w.sizes["a"] = replace(facts(10), cell_bytes=20_000.0)
    w.ask("a")
    w.settle()
    assert w.refusals[-1].reason.endswith("; n_slots = 1 would fit")
    w = world(spec("a", n_ctx=4096, n_slots=8, kv_layout="split"), spec("b"), a=10, b=30)
    w.sizes["a"] = replace(facts(10), cell_bytes=5_000.0)
    w.ask("b")
    w.settle()
    w.ask("a")
    w.settle()
    assert w.refusals[-1].reason.endswith("of 95.4 MiB; n_slots = 4 would fit")


def test_under_a_lease_it_drains_and_the_newcomer_waits() -> None:
    w = world(spec("a"), spec("b"), a=60, b=60)
    w.is_held = True
    w.ask("a")
    w.settle()
    w.ask("b")
    w.settle()
    assert (w.leases, w.up(), w.unloads) == (["a#0"], set(), [])
    assert w.residency.next_at() == math.inf, "nothing is due until something happens"
    w.ask("a")  # waits too, and comes after b
    w.release()
    w.settle()
    assert w.leases == ["b#0"]
    assert w.waiting == {"a": 1}
    w.is_held = False
    w.settle()
    assert w.n_served == 3


def test_two_loads_race_for_memory_and_one_waits_for_its_turn() -> None:
    w = world(spec("a"), spec("b"), a=60, b=60)
    w.ask("a")
    w.ask("b")
    w.look()
    w.look()
    assert [load.replica for load in w.loads] == ["a#0"]
    w.settle()
    assert (w.n_served, w.up()) == (2, {"b#0"})


def test_a_large_model_is_not_starved_by_small_ones() -> None:
    w = world(spec("big"), *(spec(f"s{k}") for k in range(4)), big=90, s0=30, s1=30, s2=30, s3=30)
    w.is_held = True
    for name in ("s0", "s1", "s2"):
        w.ask(name)
        w.settle()
    w.ask("big")
    w.settle()
    w.ask("s3")
    w.release()
    w.settle()
    assert w.waiting == {"big": 1, "s3": 1}, "what comes free is promised to big"
    for _ in range(2):
        w.release()
        w.settle()
    assert "big#0" in w.leases


def test_what_a_load_has_taken_so_far_makes_no_room_smaller_for_who_comes_meanwhile() -> None:
    w = world(spec("a", load="start"), spec("b", load="start"), budget=100, a=60, b=30)
    w.do(w.residency.begin(w.now))
    w.look()
    w.residency.resize({"cpu": 50 * MB}, {"cpu": 100 * MB})  # half of it is there: 50 are free
    w.look()
    assert ([each.replica for each in w.loads], w.refusals) == (["a#0", "b#0"], [])
    w.residency.resize({"cpu": 45 * MB}, {"cpu": 95 * MB})
    assert w.residency.room()["cpu"] == 95 * MB, "another program has taken some"


def test_a_context_is_not_shortened_to_spare_another_and_cells_are() -> None:
    w = world(spec("a"), spec("b", n_ctx=None, n_slots=None), budget=100, a=60, b=10)
    w.sizes["b"] = replace(facts(10), cell_bytes=400.0)
    w.ask("a")
    w.settle()
    w.ask("b")
    w.settle()
    assert w.up() == {"a#0", "b#0"}
    (b,) = w.residency.models["b"].replicas
    assert b.placement.shape is not None
    assert (b.placement.shape.n_ctx, b.placement.shape.n_slots) == (4096, 8)


def test_what_was_measured_counts_from_then_on() -> None:
    w = world(spec("a"), spec("b"), a=40, b=50)
    w.ask("a")
    w.look()
    w.load(measured=70 * MB)
    w.settle()
    w.ask("b")
    w.settle()
    assert w.up() == {"b#0"}
    w.ask("a")
    w.look()
    assert w.residency.models["a"].measured
    w.settle()
    assert w.up() == {"a#0"}, "the next load is granted what the last one took"


def test_idle_ones_leave_by_themselves_but_not_under_a_lease() -> None:
    w = world(spec("a", idle_s=30), a=10)
    w.ask("a")
    w.is_held = True
    w.settle()
    w.now += 1000
    w.do(w.residency.tick(w.now))
    assert w.up() == {"a#0"}
    w.release()
    assert w.residency.next_at() == w.now + 30
    w.now += 30
    w.do(w.residency.tick(w.now))
    w.settle()
    assert w.up() == set()


def test_a_replica_that_idles_beside_one_in_use_stays_and_all_go_together() -> None:
    w = world(spec("a", replicas=2, idle_s=10.0), a=10)
    w.ask("a")
    w.settle()
    for _ in range(5):
        w.now += 6
        w.residency.leased("a#0", w.now)
        w.do(w.residency.released("a#0", w.now))
        w.do(w.residency.tick(w.now))
        assert (w.up(), w.loads, w.unloads) == ({"a#0", "a#1"}, [], [])
    assert w.residency.next_at() == w.now + 10
    w.now += 10
    w.do(w.residency.tick(w.now))
    w.settle()
    assert w.up() == set()


def test_what_loads_at_start_drives_nobody_out_and_comes_when_asked_for() -> None:
    w = world(spec("a", load="start"), spec("b", load="start"), a=60, b=60)
    w.do(w.residency.begin(w.now))
    w.settle()
    assert w.up() == {"a#0"}
    assert w.refusals[-1].name == "b"
    w.ask("b")
    w.settle()
    assert w.up() == {"b#0"}


def test_no_more_models_than_may_be_loaded_at_once() -> None:
    w = World([spec(name) for name in "abc"], {name: facts(1) for name in "abc"}, {"cpu": 100 * MB}, max_loaded=2)
    for name in "abc":
        w.ask(name)
        w.settle()
        w.now += 1
    assert w.up() == {"b#0", "c#0"}


def test_replicas_spread_over_devices_and_leave_a_quarantined_one() -> None:
    budgets = {"d0": 50 * MB, "d1": 50 * MB}
    w = World([spec("a", replicas=2)], {"a": facts(20)}, budgets)
    w.ask("a")
    w.settle()
    assert {each.placement.devices for each in w.residency.models["a"].replicas} == {("d0",), ("d1",)}
    w.do(w.residency.quarantine("d0", "xid 79", w.now))
    w.settle()
    assert {each.placement.devices for each in w.residency.models["a"].replicas} == {("d1",)}
    assert len(w.up()) == 2


def test_one_replica_a_gpu_and_a_large_model_over_all_of_them() -> None:
    budgets = {"g0": 50 * MB, "g1": 70 * MB}
    w = World(
        [spec("each", replicas="per-gpu"), spec("large")], {"each": facts(10), "large": facts(80)}, budgets, kind="gpu"
    )
    w.ask("each")
    w.settle()
    assert len(w.up()) == 2
    w.ask("large")
    w.settle()
    (large,) = w.residency.models["large"].replicas
    assert large.placement.devices == ("g0", "g1")
    assert len(large.placement.shares) == 2


def test_a_split_over_more_gpus_than_there_are_is_told() -> None:
    budgets = {"g0": 50 * MB, "g1": 50 * MB}
    w = World([spec("a", tensor_split=(1.0, 1.0, 2.0))], {"a": facts(10)}, budgets, kind="gpu")
    w.ask("a")
    w.settle()
    assert w.refusals[-1].reason == "`a` has a tensor_split of 3 shares, and there are 2 GPUs"


def test_a_device_that_is_not_there_is_named() -> None:
    w = world(spec("a", devices=("CUDA7",)), a=10)
    w.ask("a")
    w.settle()
    assert w.refusals[-1].reason == "`a` has no device: it may go on CUDA7, there are cpu"


@pytest.mark.parametrize(
    ("options", "is_broken", "is_refused"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"n_gpu_layers": 0}, True, False),
        ({"devices": ("cpu",)}, True, False),
        ({"n_gpu_layers": 20}, False, True),
        ({"replicas": "per-gpu"}, False, True),
        ({"devices": ("CUDA0", "CUDA1"), "tensor_split": (1.0, 1.0)}, False, True),
        ({"devices": ("GPU-0",), "split_mode": "none"}, True, True),
    ],
)
@pytest.mark.parametrize("falls_back", [False, True])
def test_what_is_to_be_on_a_gpu_is_not_put_on_the_cpu_unsaid(
    options: dict[str, Any], is_broken: bool, is_refused: bool, falls_back: bool
) -> None:
    w = world(spec("a", **options), a=10)
    devices, trouble = [Device(id="cpu", total_bytes=100 * MB)], Trouble("driver says: 999", is_broken, falls_back)
    w.do(w.residency.equip(devices, {"cpu": 100 * MB}, w.now, trouble=trouble))
    w.ask("a")
    w.settle()
    if is_refused and not falls_back:
        on_cpu = 'devices = ["cpu"]' if "devices" in options else "n_gpu_layers = 0"
        assert f"`a` is to be on a GPU; driver says: 999; {on_cpu}, or cpu_fallback" in w.refusals[-1].reason
        assert not w.up()
        return
    (replica,) = w.residency.models["a"].replicas
    assert w.up()
    decided = replica.placement.spec(w.residency.models["a"].spec)
    assert (decided.devices, decided.tensor_split, decided.n_gpu_layers) == (("cpu",), (), 0)


def test_what_names_a_device_that_is_not_there_falls_back_to_nothing_while_no_driver_fails() -> None:
    w = world(spec("a", devices=("CUDA7",)), a=10)
    w.residency.say_trouble(Trouble(falls_back=True))
    w.ask("a")
    w.settle()
    assert w.refusals[-1].reason == "`a` has no device: it may go on CUDA7, there are cpu"


def test_models_that_take_turns_stay_as_long_as_their_load_took_and_both_are_served() -> None:
    """Two clients that ask at once for one of two models, of which one fits, and a load takes 5 s."""
    w = world(spec("a"), spec("b"), a=60, b=60)
    began, n_loads, served = w.now, 0, {"a": 0, "b": 0}
    while w.now < began + 200:
        w.now += 0.1
        for name in served:  # as soon as the last one was answered
            if name not in w.waiting and f"{name}#0" not in w.leases:
                served[name] += 1
                w.ask(name)
        w.do(w.residency.tick(w.now))
        while w.looks:
            w.look()
        if w.loads:
            w.now += 5.0
            w.load()
            n_loads += 1
        while w.leases:
            w.release()
        while w.unloads:
            w.unload()
    assert n_loads <= 200 / 5 / 2 + 1, "half of the time at most is spent on loads"
    assert n_loads > 200 / 5 / 4
    assert min(served.values()) > 20 * n_loads, "and each is of use while it is there"


def test_who_is_idle_need_not_stay() -> None:
    w = world(spec("a"), spec("b"), a=60, b=60)
    w.ask("a")
    w.look()
    w.now += 60
    w.load()
    w.release()
    w.ask("b")
    w.look()
    assert (w.up(), w.residency.next_at()) == ({"a#0"}, w.now + PAUSE_S)
    w.now += PAUSE_S
    w.do(w.residency.tick(w.now))
    w.settle()
    assert w.up() == {"b#0"}


def test_who_waits_for_one_that_loads_keeps_his_place() -> None:
    w = world(spec("a"), spec("big"), spec("c"), a=60, big=90, c=30)
    w.ask("a")
    w.look()
    w.ask("big")
    w.look()
    w.ask("c")
    w.look()
    assert [load.replica for load in w.loads] == ["a#0"], "c may not take what big waits for"
    w.settle()
    assert w.n_served == 3
