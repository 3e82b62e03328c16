"""Laws of what is in memory: driven at random, with clocks that jump, and the cases that the laws were made of."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llamahost.fleet.devices import Device
from llamahost.fleet.footprint import FileFacts, Footprint
from llamahost.fleet.manifest import ModelSpec
from llamahost.fleet.residency import BACKOFF_S, LOST_AGAIN_S, Residency
from llamahost.fleet.residents import PAUSE_S, Effect, Load, Look, Measured, Refuse, Unload
from llamahost.fleet.settle import AGAIN_S, MAX_BACKOFF_S

MB = 10**6


def spec(name: str, **options: Any) -> ModelSpec:
    known = {"n_ctx": 64, "n_slots": 1, "load": "request", "path": Path(f"{name}.gguf")}
    return ModelSpec(name=name, **{**known, **options})


def facts(mb: int, **options: Any) -> FileFacts:
    """Of a model that takes about so many megabytes, and no more for its context than a few bytes."""
    return FileFacts(layers=(mb * MB // 2, mb * MB // 2), n_ctx_train=4096, **options)


@dataclass
class World:
    """Does what residency asks for, when the test says so, and checks what must hold after every step."""

    specs: Sequence[ModelSpec]
    sizes: dict[str, FileFacts]
    budgets: dict[str, int]
    kind: Any = "cpu"
    max_loaded: int | None = None
    now: float = 1000.0
    looks: list[Look] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)  # requests by model
    leases: list[str] = field(default_factory=list)  # by replica
    n_asked: int = 0
    n_served: int = 0
    n_refused: int = 0
    refusals: list[Refuse] = field(default_factory=list)
    is_held: bool = False  # leases end only when the test says so

    def __post_init__(self) -> None:
        self.residency = Residency(self.specs, max_loaded=self.max_loaded)
        devices = [Device(id=name, kind=self.kind, total_bytes=n) for name, n in self.budgets.items()]
        self.do(self.residency.equip(devices, self.budgets, self.now))

    def do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Look():
                    assert effect not in self.looks
                    self.looks.append(effect)
                case Load():
                    self.loads.append(effect)
                case Unload(replica):
                    assert replica not in self.leases, "unloaded under a lease"
                    assert replica not in self.unloads, "unloaded twice"
                    self.unloads.append(replica)
                case Refuse(name, _, _):
                    self.refusals.append(effect)
                    self.n_refused += self.waiting.pop(name, 0)
        self.check()

    def check(self) -> None:
        taken = self.residency.taken()
        for device, room in self.residency.room().items():
            assert taken[device] <= room, f"{device} is over-committed"
        assert self.n_asked == self.n_served + self.n_refused + sum(self.waiting.values()), "a request is lost"

    def ask(self, name: str) -> None:
        """A request: served at once where it is ready, else it waits."""
        self.n_asked += 1
        ready = [each for each in self.residency.models[name].replicas if each.state == "ready"]
        if ready:
            self.serve(ready[0].id)
            return
        self.waiting[name] = self.waiting.get(name, 0) + 1
        self.do(self.residency.want(name, self.now))

    def serve(self, replica: str) -> None:
        self.residency.leased(replica, self.now)
        self.leases.append(replica)
        self.n_served += 1

    def look(self, k: int = 0) -> None:
        look = self.looks.pop(k)
        self.do(self.residency.looked(look, self.sizes[look.name], self.now))

    def load(self, k: int = 0, *, measured: int | None = None) -> None:
        load = self.loads.pop(k)
        known = None
        if measured is not None:
            (device,) = load.placement.bytes
            known = Measured({device: measured}, Footprint(weights_bytes=measured))
        effects = self.residency.loaded(load.replica, known, self.now)
        name = load.replica.rpartition("#")[0]
        if any(each.id == load.replica and each.state == "ready" for each in self.residency.models[name].replicas):
            for _ in range(self.waiting.pop(name, 0)):
                self.serve(load.replica)
        self.do(effects)
        self.do(self.residency.tick(self.now))

    def fail(self, k: int = 0, reason: str = "broken", *, is_memory: bool = False) -> None:
        self.do(self.residency.failed(self.loads.pop(k).replica, reason, self.now, is_memory=is_memory))

    def unload(self, k: int = 0) -> None:
        self.do(self.residency.unloaded(self.unloads.pop(k), self.now))

    def release(self, k: int = 0) -> None:
        self.do(self.residency.released(self.leases.pop(k), self.now))

    def settle(self, n_most: int = 1000) -> None:
        """Do all that was asked for, until nothing is left."""
        for _ in range(n_most):
            if self.looks:
                self.look()
            elif self.loads:
                self.load()
            elif self.leases and not self.is_held:
                self.release()
            elif self.unloads:
                self.unload()
            else:
                return
        raise AssertionError("it does not come to rest")

    def up(self) -> set[str]:
        return {each.id for model in self.residency.models.values() for each in model.replicas if each.state == "ready"}


def world(*specs: ModelSpec, budget: int = 100, **sizes: int) -> World:
    return World(specs, {name: facts(mb) for name, mb in sizes.items()}, {"cpu": budget * MB})


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

    def release(device: str) -> None:
        w.do(w.residency.release(device, w.now))

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
            device = dice.choice(list(budgets))
            doings.append(partial(quarantine, device))
            doings.append(partial(release, device))
        if dice.random() < 0.02:
            doings.append(lambda: w.do(w.residency.adopt([made(name) for name in names], w.now)))
        dice.choice(doings)()
    for device in budgets:
        release(device)
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
    assert "`b` does not fit: it takes at least 48 MiB (weights 48 MiB, " in w.refusals[-1].reason
    assert "of 95 MiB, where `a` has 57 MiB (pinned)" in w.refusals[-1].reason


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
    assert w.refusals[-1].reason.endswith("of 95 MiB; n_slots = 4 would fit")


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


def test_what_a_load_has_taken_so_far_makes_no_room_smaller_for_who_comes_meanwhile() -> None:
    w = world(spec("a", load="start"), spec("b", load="start"), budget=100, a=60, b=30)
    w.do(w.residency.begin(w.now))
    w.look()
    w.residency.resize({"cpu": 50 * MB}, {"cpu": 100 * MB})  # half of it is there: 50 are free
    w.look()
    assert ([each.replica for each in w.loads], w.refusals) == (["a#0", "b#0"], [])
    w.residency.resize({"cpu": 45 * MB}, {"cpu": 95 * MB})
    assert w.residency.room()["cpu"] == 95 * MB, "another program has taken some"


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
    w.now = w.residency.next_at()
    w.do(w.residency.tick(w.now))
    assert w.residency.next_at() == math.inf
    w.settle()
    assert w.up() == {"a#0", "a#1"}


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
    assert sum(large.placement.shares) == pytest.approx(1.0)


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
    ],
)
def test_what_is_to_be_on_a_gpu_is_not_put_on_the_cpu_unsaid(
    options: dict[str, Any], is_broken: bool, is_refused: bool
) -> None:
    w = world(spec("a", **options), a=10)
    devices = [Device(id="cpu", total_bytes=100 * MB)]
    w.do(w.residency.equip(devices, {"cpu": 100 * MB}, w.now, trouble="driver says: 999", is_broken=is_broken))
    w.ask("a")
    w.settle()
    assert (w.up() == set()) == is_refused
    assert not is_refused or "`a` is to be on a GPU; driver says: 999; n_gpu_layers = 0" in w.refusals[-1].reason


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
