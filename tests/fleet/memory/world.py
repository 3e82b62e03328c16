"""Drive what decides about memory by hand, and check what must hold after every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamahost.fleet.machine.devices import Device
from llamahost.fleet.machine.footprint import FileFacts, Footprint
from llamahost.fleet.memory.residency import Residency
from llamahost.fleet.memory.residents import Effect, Load, Look, Measured, Refuse, Unload
from llamahost.fleet.settings.manifest import ModelSpec

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
