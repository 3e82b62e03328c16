"""Find room for what is wanted: load it, promise it room that will be, ask others to leave, or refuse it.

The deciding part of residency, and owned by it. Pure; appends effects. What is promised to one model no later one
takes, and whoever waits for those that load now or are still young holds their place, so that all get their turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from llamahost.fleet.machine.devices import NO_TROUBLE
from llamahost.fleet.memory.memory import Memory, may_go, take, without
from llamahost.fleet.memory.placement import EFFORTS, Effort, Placement, wants_gpu
from llamahost.fleet.memory.refusal import why_not
from llamahost.fleet.memory.residents import Effect, Load, Look, Model, Refuse, Replica, Unload

BACKOFF_S, MAX_BACKOFF_S = 5.0, 300.0
"""After a load that failed; doubled by each that follows."""
AGAIN_S = 60.0
"""Until what is to be there from the start, and had no room, looks for some again; who asks need not wait for that."""


class Settling:
    """`models` and `known`, replicas by id, are residency's own tables."""

    def __init__(self, models: dict[str, Model], memory: Memory) -> None:
        self.models = models
        self.known: dict[str, tuple[Model, Replica]] = {}
        self.effects: list[Effect] = []
        self.trouble = NO_TROUBLE
        self.is_anyone_waiting = False
        self.is_over = False  # nothing is loaded any more
        self._memory = memory
        self._n_turns = 0

    def plan(self, now: float) -> None:
        memory = self._memory
        if not memory.devices:
            return
        free = memory.free()
        coming = memory.coming(free)
        waiting = [m for m in self.models.values() if m.wanted_at is not None and not m.is_gone and now >= m.retry_at]
        self.is_anyone_waiting = False
        for model in sorted(waiting, key=lambda each: each.turn):
            if model.current:
                model.wanted_at = None
            elif self._lacks_gpu(model):
                on_cpu = "n_gpu_layers = 0" if model.spec.devices == "auto" else 'devices = ["cpu"]'
                told = f"`{model.spec.name}` is to be on a GPU; {self.trouble.told}"
                self.fail(
                    model, f"{told}; {on_cpu}, or cpu_fallback = true for all, serves it on the CPU", now, is_room=True
                )
            elif model.facts is None:
                if not model.is_looking:
                    self._n_turns += 1
                    model.is_looking, model.look = True, self._n_turns
                    self.effects.append(Look(model.spec.name, model.look))
            else:
                self.is_anyone_waiting |= not self._settle(model, free, coming, now)
        if not self.is_anyone_waiting:
            self._multiply(free, now)
        for model in self.models.values():
            n_there = len(model.current)
            model.n_lacking = max(0, memory.n_wanted(model.spec) - n_there) if n_there else 0

    def _lacks_gpu(self, model: Model) -> bool:
        told, is_broken, falls_back = self.trouble
        return bool(told) and not falls_back and wants_gpu(model.spec, is_said=not is_broken)

    def want(self, model: Model, now: float, *, may_evict: bool) -> None:
        """What is to be there from the start finds its place or says that there is none; it drives nobody out."""
        model.again_at = math.inf
        model.may_evict = may_evict or (model.wanted_at is not None and model.may_evict)
        if model.wanted_at is None and not self.is_over:
            self._n_turns += 1
            model.wanted_at, model.turn = now, self._n_turns
            if not model.current and not model.is_looking:
                model.facts = None  # the file may be another by now, and what is free another amount

    def _settle(self, model: Model, free: dict[str, int], coming: dict[str, int], now: float) -> bool:
        """Load it, promise it room that will be, or refuse it; False where it waits for room."""
        fitting = self._memory.fitting
        conceivable = self._memory.conceivable(model)
        if model.old and fitting(model, free, "asked") is None:  # no room beside those that it replaces
            most = conceivable if model.may_evict else without(coming, [(model, each) for each in model.old])
            if not any(fitting(model, most, effort) for effort in EFFORTS):
                self.fail(model, why_not(model, self._memory, most), now, is_room=True)
                return True  # and they stay
            coming.update(without(coming, [(model, each) for each in model.old]))
            for replica in model.old:
                self.drain(replica)
        for effort in EFFORTS:
            if (found := fitting(model, free, effort)) is not None:
                self.load(model, found, now)
                take(free, found.bytes, not model.replicas[:-1])
                take(coming, found.bytes, not model.replicas[:-1])
                return True
            found = fitting(model, coming, effort) or self._evict(model, coming, effort, now)
            if found is None and model.may_evict:
                # Those in its way load, are young or have a promise: they can be asked soon, and nothing is given up
                # for their sake meanwhile.
                found = fitting(model, conceivable, effort)
            if found is not None:
                take(coming, found.bytes, not model.replicas)
                for device in free:  # a later one may have what is left over, and nothing of what was promised
                    free[device] = min(free[device], max(0, coming[device]))
                return False
        self.fail(model, why_not(model, self._memory, conceivable if model.may_evict else coming), now, is_room=True)
        return True

    def _evict(self, model: Model, coming: dict[str, int], effort: Effort, now: float) -> Placement | None:
        """Drain as few others as make room, the least recently used first; None, and nothing drained, where none do."""
        chosen: list[tuple[Model, Replica]] = []
        if not model.may_evict:
            return None
        fitting = self._memory.fitting
        for victim in sorted(self._victims(model, now), key=_worth):
            chosen.append(victim)
            if fitting(model, without(coming, chosen), effort) is not None:
                break
        else:
            return None
        for victim in chosen[::-1]:  # what turned out not to be needed, the most valuable of them first
            fewer = [each for each in chosen if each is not victim]
            if fitting(model, without(coming, fewer), effort) is not None:
                chosen = fewer
        found = fitting(model, without(coming, chosen), effort)
        coming.update(without(coming, chosen))
        for _, replica in chosen:
            self.drain(replica)
        return found

    def _victims(self, model: Model, now: float) -> Iterator[tuple[Model, Replica]]:
        for other in self.models.values():
            if other is not model and may_go(other, model):
                ready = (each for each in other.live if each.state == "ready")
                yield from ((other, each) for each in ready if now >= each.young_until(now))

    def _multiply(self, free: dict[str, int], now: float) -> None:
        """More replicas of what runs, where there is room for them without asking anyone to leave."""
        for model in self.models.values():
            if model.facts is None or model.is_gone or now < model.retry_at:
                continue
            n_wanted = self._memory.n_wanted(model.spec)
            surplus = [each for each in model.current if each.state == "ready"][n_wanted:]
            for replica in surplus:
                self.drain(replica)
            while 0 < len(model.current) < n_wanted:
                used = {each for replica in model.replicas for each in replica.placement.devices}
                usable = self._memory.usable()
                if model.spec.replicas == "per-gpu":
                    usable = [each for each in usable if each.id not in used]
                found = self._memory.fitting(model, free, "asked", avoid=used, devices=usable)
                if found is None:
                    break
                self.load(model, found, now)
                take(free, found.bytes, is_first=False)

    def load(self, model: Model, placement: Placement, now: float) -> None:
        known = {each.id for each in model.replicas}
        id_ = next(name for k in range(len(known) + 1) if (name := f"{model.spec.name}#{k}") not in known)
        replica = Replica(id_, placement, placement.bytes, last_used=now, seen=model.seen, made_for=model.spec)
        model.replicas.append(replica)
        self.known[id_] = model, replica
        spec = placement.spec(model.spec)
        if model.facts is not None and model.facts.path is not None:
            spec = replace(spec, path=model.facts.path)
        self.effects.append(Load(id_, spec, placement))

    def drain(self, replica: Replica) -> None:
        """No lease from now on; out of memory when the last one ends."""
        if replica.state == "loading":
            replica.is_doomed = True
        elif replica.state == "ready":
            replica.state = "draining"
            if replica.n_leases == 0:
                replica.state = "unloading"
                self.effects.append(Unload(replica.id))

    def fail(self, model: Model, reason: str, now: float, *, is_room: bool = False) -> None:
        """`is_room`: nothing is wrong with it, so that the next request tries again at once."""
        is_news = is_room and reason != model.reason  # told again to each who asks, in the log once
        model.reason, model.wanted_at = reason, None
        is_room, model.n_skipped = is_room and not model.n_skipped and not model.old, 0
        backoff_s = 1.0
        if not is_room:
            model.n_failures += 1
            backoff_s = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(20, model.n_failures - 1))
            model.retry_at = now + backoff_s
        elif model.comes_again:
            model.again_at = now + AGAIN_S
        if not model.current:
            self.effects.append(Refuse(model.spec.name, reason, backoff_s, is_news))


def _worth(victim: tuple[Model, Replica]) -> tuple[int, bool, float]:
    model, replica = victim
    return model.spec.memory_priority, replica.n_leases > 0, replica.last_used
