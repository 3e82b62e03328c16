"""Decide which models are in memory, and where. Pure: takes the clock as an argument, returns effects, does nothing.

Laws, which tests drive at random: what replicas take of a device never exceeds what models may have of it; nothing is
unloaded under a lease, nor is a pinned model to make room; who asked first gets room first, and what was promised to
him no later one takes, so that every request is answered or refused. Knows no thread, no request and no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from llamahost.fleet.devices import Device
from llamahost.fleet.footprint import FileFacts
from llamahost.fleet.manifest import ModelSpec
from llamahost.fleet.memory import Memory, may_go, take, without
from llamahost.fleet.placement import Bytes, Placement, wants_gpu
from llamahost.fleet.refusal import why_not
from llamahost.fleet.residents import Effect, Load, Look, Measured, Model, Refuse, Replica, Unload

BACKOFF_S, MAX_BACKOFF_S = 5.0, 300.0
"""After a load that failed; doubled by each that follows."""
LOST_S = 1.0
LOST_AGAIN_S = 60.0
PEACE_S = 60.0
"""A replica that is lost is loaded anew after LOST_S, or LOST_AGAIN_S where it had been ready for less than PEACE_S."""

_IN_PLACE = frozenset(
    {
        "adapters",
        "aliases",
        "replicas",
        "pinned",
        "idle_s",
        "memory_priority",
        "load",
        "when_loading",
        "max_queue",
        "timeout_s",
    }
)
"""Fields of a spec that a change of does not load the model anew for."""


class Residency:
    """Owned by the loop."""

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        *,
        max_loaded: int | None = None,
        may_page: bool = False,
        lost_s: float = LOST_S,
    ) -> None:
        self.models = {spec.name: Model(spec) for spec in specs}
        self._memory = Memory(self.models, max_loaded=max_loaded, may_page=may_page)
        self._lost_s = lost_s
        self._trouble, self._is_broken = "", False
        self._effects: list[Effect] = []
        self._known: dict[str, tuple[Model, Replica]] = {}
        self._n_turns = 0

    # --- what happens; each returns what to do about it ---

    def equip(
        self, devices: Sequence[Device], room: Bytes, now: float, *, trouble: str = "", is_broken: bool = False
    ) -> tuple[Effect, ...]:
        """These are the devices; until they are known, everyone waits.

        `trouble` says why there is no GPU where there should be: then what asks for one is refused with it, and if a
        driver `is_broken`, whatever does not ask for the CPU.
        """
        self._trouble, self._is_broken = trouble, is_broken
        self._memory.devices = tuple(devices)
        self._memory.room.update(room)
        return self.tick(now)

    def begin(self, now: float) -> tuple[Effect, ...]:
        """Load what is to be there from the start."""
        for model in self.models.values():
            if model.spec.load == "start":
                self._want(model, now, may_evict=False)
        return self.tick(now)

    def want(self, name: str, now: float) -> tuple[Effect, ...]:
        """Somebody waits for this model, or asked for it by hand."""
        model = self.models[name]
        if model.live and not model.is_gone:
            return ()
        if now < model.retry_at:
            return (Refuse(name, model.reason, model.retry_at - now),)
        self._want(model, now, may_evict=True)
        return self.tick(now)

    def unwant(self, name: str) -> None:
        """Nobody waits for it any more."""
        model = self.models.get(name)
        if model is not None and not model.live and model.spec.load == "request":
            model.wanted_at = None

    def looked(self, look: Look, facts: FileFacts, now: float) -> tuple[Effect, ...]:
        model = self.models.get(look.name)
        if model is not None and model.look == look.turn:
            if model.seen != facts.stamp:
                model.measured.clear()
            model.facts, model.seen, model.is_looking = facts, facts.stamp, False
        return self.tick(now)

    def failed_look(self, look: Look, reason: str, now: float) -> tuple[Effect, ...]:
        model = self.models.get(look.name)
        if model is not None and model.look == look.turn:
            model.is_looking = False
            self._fail(model, reason, now)
        return self.tick(now)

    def loaded(self, replica_id: str, measured: Measured | None, now: float) -> tuple[Effect, ...]:
        """It is ready, unless it was unloaded meanwhile. Whoever waits is served before the next `tick`."""
        model, replica = self._find(replica_id)
        if measured is not None:
            replica.bytes = measured.bytes
            is_as_now = replica.seen == model.seen and not replica.is_doomed  # its file and settings
            if is_as_now and replica.placement.shape is not None and len(replica.placement.devices) == 1:
                model.measured[replica.placement.shape] = measured.footprint
        replica.last_used = replica.ready_at = now
        if replica.is_doomed:
            replica.state = "unloading"
            return (Unload(replica_id),)
        replica.state = "ready"
        model.wanted_at, model.reason, model.n_failures = None, "", 0
        return ()

    def failed(self, replica_id: str, reason: str, now: float, *, is_memory: bool = False) -> tuple[Effect, ...]:
        """A load failed. `is_memory`: a smaller shape may succeed, and is tried at once."""
        model, replica = self._find(replica_id)
        model.replicas.remove(replica)
        del self._known[replica_id]
        if is_memory and not replica.is_doomed and not model.is_gone and not model.live:
            model.n_skipped += 1
            self._want(model, now, may_evict=model.may_evict)
            model.reason = reason
        elif not replica.is_doomed:
            self._fail(model, reason, now)
        self._forget(model)
        return self.tick(now)

    def leased(self, replica_id: str, now: float) -> None:
        _, replica = self._find(replica_id)
        assert replica.state == "ready", "nothing else is leased"
        replica.n_leases += 1
        replica.last_used = now

    def released(self, replica_id: str, now: float) -> tuple[Effect, ...]:
        _, replica = self._find(replica_id)
        replica.n_leases -= 1
        replica.last_used = now
        if replica.n_leases == 0 and replica.state == "draining":
            replica.state = "unloading"
            return (Unload(replica_id),)
        return ()

    def unloaded(self, replica_id: str, now: float) -> tuple[Effect, ...]:
        model, replica = self._find(replica_id)
        model.replicas.remove(replica)
        del self._known[replica_id]
        if not model.replicas:
            model.facts = None  # the file may be another by the time it is wanted again
        self._forget(model)
        return self.tick(now)

    def unload(self, name: str, now: float) -> tuple[Effect, ...]:
        """By hand: every replica goes as soon as nobody uses it, pinned or not."""
        model = self.models[name]
        waits = model.wanted_at is not None or not model.is_ready
        model.wanted_at, model.is_looking, model.look = None, False, 0  # what is fetched for it is fetched no more
        model.retry_at, model.reason = -math.inf, ""
        for replica in model.live:
            self._drain(replica)
        if waits:
            self._effects.append(Refuse(name, "it was unloaded by hand", 1.0))
        return self.tick(now)

    def lost(self, replica_id: str, reason: str, now: float) -> tuple[Effect, ...]:
        """Its backend is gone, and its jobs have failed: it is closed, and loaded anew after a while."""
        model, replica = self._find(replica_id)
        if replica.state != "ready":
            return ()  # it is known: a model may lose both its contexts
        if now - replica.ready_at > PEACE_S:
            model.n_lost = 0
        model.n_lost += 1
        delay_s = self._lost_s if model.n_lost == 1 else min(MAX_BACKOFF_S, LOST_AGAIN_S * 2 ** (model.n_lost - 2))
        replica.reason = reason
        self._drain(replica)
        if not model.is_gone:
            again = " (again, soon after it was loaded anew)" if model.n_lost > 1 else ""
            model.reason, model.retry_at = reason + again, now + delay_s
            if not model.live:
                self._want(model, now, may_evict=False)
        return self.tick(now)

    def quarantine(self, device_id: str, reason: str, now: float) -> tuple[Effect, ...]:
        """Put nothing on this device any more; what is on it goes, and comes back elsewhere if it can."""
        self._memory.quarantined[device_id] = reason
        for model in self.models.values():
            for replica in model.live:
                if device_id in replica.placement.devices:
                    replica.reason = reason
                    self._drain(replica)
                    if not model.live and not model.is_gone:
                        model.reason = reason
                        self._want(model, now, may_evict=False)
        return self.tick(now)

    def release(self, device_id: str, now: float) -> tuple[Effect, ...]:
        """The device may be used again."""
        self._memory.quarantined.pop(device_id, None)
        return self.tick(now)

    @property
    def devices(self) -> tuple[Device, ...]:
        """Those that there are, out of use or not."""
        return self._memory.devices

    def end(self) -> None:
        """Load nothing any more."""
        self._memory.devices = ()

    def resize(self, room: Bytes) -> None:
        """What models may take of each device, as it was seen."""
        self._memory.room.update(room)

    def adopt(self, specs: Sequence[ModelSpec], now: float, *, max_loaded: int | None = None) -> tuple[Effect, ...]:
        """A manifest that was changed: only what changed is touched."""
        self._memory.allow(max_loaded)
        new = {spec.name: spec for spec in specs}
        for name, model in tuple(self.models.items()):
            if name not in new:
                model.is_gone, model.wanted_at = True, None
                for replica in model.live:
                    self._drain(replica)
                self._effects.append(Refuse(name, "it was taken from the manifest", 60.0))
                self._forget(model)
        for name, spec in new.items():
            known = self.models.get(name)
            if known is None:
                self.models[name] = known = Model(spec)
                if spec.load == "start":
                    self._want(known, now, may_evict=False)
                continue
            was, known.spec = known.spec, spec
            if known.is_gone:  # and has come back before its last replica went
                known.is_gone = False
                if spec.load == "start":
                    self._want(known, now, may_evict=False)
            if any(
                getattr(was, each.name) != getattr(spec, each.name)
                for each in fields(spec)
                if each.name not in _IN_PLACE
            ):
                is_wanted = bool(known.live) or known.wanted_at is not None or spec.load == "start"
                known.is_looking, known.look = False, 0
                known.measured.clear()
                known.facts, known.n_skipped, known.n_failures, known.retry_at, known.reason = None, 0, 0, -math.inf, ""
                for replica in known.live:
                    self._drain(replica)
                if is_wanted:
                    self._want(known, now, may_evict=known.may_evict)
            elif was.load != spec.load == "start" and not known.live:
                self._want(known, now, may_evict=False)
        for name in (*new, *(each for each in self.models if each not in new)):  # in the manifest's order
            self.models[name] = self.models.pop(name)
        return self.tick(now)

    def tick(self, now: float) -> tuple[Effect, ...]:
        """Unload what has idled, load what is wanted and has room. Any number of times, at any time."""
        for model in self.models.values():
            if now >= model.retry_at:
                model.retry_at = -math.inf  # it has come
            idle_s = model.spec.idle_s
            if idle_s is not None:
                for replica in model.live:
                    if replica.state == "ready" and replica.n_leases == 0 and now - replica.last_used >= idle_s:
                        self._drain(replica)
        self._plan(now)
        effects, self._effects = tuple(self._effects), []
        return effects

    # --- what is ---

    def next_at(self) -> float:
        """When `tick` has something to do though nothing happens; infinite where never."""
        lacking = (model for model in self.models.values() if model.wanted_at is not None or model.live)
        times = [model.retry_at for model in lacking if model.retry_at > -math.inf]
        for model in self.models.values():
            if model.spec.idle_s is not None:
                times += [r.last_used + model.spec.idle_s for r in model.live if r.state == "ready" and not r.n_leases]
        return min(times, default=math.inf)

    def taken(self, *, in_truth: bool = False) -> Mapping[str, int]:
        """See Memory.taken."""
        return self._memory.taken(in_truth=in_truth)

    def room(self) -> Mapping[str, int]:
        return self._memory.room

    # --- deciding ---

    def _plan(self, now: float) -> None:
        memory = self._memory
        if not memory.devices:
            return
        free = memory.free()
        coming = memory.coming(free)
        waiting = [m for m in self.models.values() if m.wanted_at is not None and not m.is_gone and now >= m.retry_at]
        is_anyone_waiting = False
        for model in sorted(waiting, key=lambda each: each.turn):
            if model.live:
                model.wanted_at = None
            elif self._trouble and wants_gpu(model.spec, is_said=not self._is_broken):
                hint = "n_gpu_layers = 0, or cpu_fallback = true for all, serves it on the CPU"
                self._fail(model, f"`{model.spec.name}` is to be on a GPU; {self._trouble}; {hint}", now, is_room=True)
            elif model.facts is None:
                if not model.is_looking:
                    self._n_turns += 1
                    model.is_looking, model.look = True, self._n_turns
                    self._effects.append(Look(model.spec.name, model.look))
            else:
                is_anyone_waiting |= not self._settle(model, free, coming, now)
        if not is_anyone_waiting:
            self._multiply(free, now)

    def _want(self, model: Model, now: float, *, may_evict: bool) -> None:
        """What is to be there from the start finds its place or says that there is none; it drives nobody out."""
        model.may_evict = may_evict or (model.wanted_at is not None and model.may_evict)
        if model.wanted_at is None:
            self._n_turns += 1
            model.wanted_at, model.turn = now, self._n_turns
            if not model.replicas and not model.is_looking:
                model.facts = None  # the file may be another by now, and what is free another amount

    def _settle(self, model: Model, free: dict[str, int], coming: dict[str, int], now: float) -> bool:
        """Load it, promise it room that will be, or refuse it; False where it waits for room."""
        for is_any in (False, True):
            if (found := self._memory.fitting(model, free, is_any=is_any)) is not None:
                self._load(model, found, now)
                take(free, found.bytes, not model.replicas[:-1])
                take(coming, found.bytes, not model.replicas[:-1])
                return True
            found = self._memory.fitting(model, coming, is_any=is_any) or self._evict(model, coming, is_any=is_any)
            if found is not None:
                take(coming, found.bytes, not model.replicas)
                for device in free:  # a later one may have what is left over, and nothing of what was promised
                    free[device] = min(free[device], max(0, coming[device]))
                return False
        conceivable = self._memory.conceivable(model)
        if model.may_evict and self._memory.fitting(model, conceivable, is_any=True) is not None:
            return False  # those in its way load, leave, or have a promise: they can be asked when they are there
        self._fail(model, why_not(model, self._memory, conceivable if model.may_evict else coming), now, is_room=True)
        return True

    def _evict(self, model: Model, coming: dict[str, int], *, is_any: bool) -> Placement | None:
        """Drain as few others as make room, the least recently used first; None, and nothing drained, where none do."""
        chosen: list[tuple[Model, Replica]] = []
        if not model.may_evict:
            return None
        for victim in sorted(self._victims(model), key=_worth):
            chosen.append(victim)
            if self._memory.fitting(model, without(coming, chosen), is_any=is_any) is not None:
                break
        else:
            return None
        for victim in chosen[::-1]:  # what turned out not to be needed, the most valuable of them first
            fewer = [each for each in chosen if each is not victim]
            if self._memory.fitting(model, without(coming, fewer), is_any=is_any) is not None:
                chosen = fewer
        found = self._memory.fitting(model, without(coming, chosen), is_any=is_any)
        coming.update(without(coming, chosen))
        for _, replica in chosen:
            self._drain(replica)
        return found

    def _victims(self, model: Model) -> Iterator[tuple[Model, Replica]]:
        for other in self.models.values():
            if other is not model and may_go(other, model):
                yield from ((other, each) for each in other.live if each.state == "ready")

    def _multiply(self, free: dict[str, int], now: float) -> None:
        """More replicas of what runs, where there is room for them without asking anyone to leave."""
        for model in self.models.values():
            if model.facts is None or model.is_gone or now < model.retry_at:
                continue
            n_wanted = self._memory.n_wanted(model.spec)
            surplus = [each for each in model.live if each.state == "ready"][n_wanted:]
            for replica in surplus:
                self._drain(replica)
            while 0 < len(model.live) < n_wanted:
                used = {each for replica in model.replicas for each in replica.placement.devices}
                usable = self._memory.usable()
                if model.spec.replicas == "per-gpu":
                    usable = [each for each in usable if each.id not in used]
                found = self._memory.fitting(model, free, is_any=False, avoid=used, devices=usable)
                if found is None:
                    break
                self._load(model, found, now)
                take(free, found.bytes, is_first=False)

    def _load(self, model: Model, placement: Placement, now: float) -> None:
        known = {each.id for each in model.replicas}
        id_ = next(name for k in range(len(known) + 1) if (name := f"{model.spec.name}#{k}") not in known)
        replica = Replica(id_, placement, placement.bytes, last_used=now, seen=model.seen)
        model.replicas.append(replica)
        self._known[id_] = model, replica
        spec = placement.spec(model.spec)
        if model.facts is not None and model.facts.path is not None:
            spec = replace(spec, path=model.facts.path)
        self._effects.append(Load(id_, spec, placement))

    def _drain(self, replica: Replica) -> None:
        """No lease from now on; out of memory when the last one ends."""
        if replica.state == "loading":
            replica.is_doomed = True
        elif replica.state == "ready":
            replica.state = "draining"
            if replica.n_leases == 0:
                replica.state = "unloading"
                self._effects.append(Unload(replica.id))

    def _fail(self, model: Model, reason: str, now: float, *, is_room: bool = False) -> None:
        """`is_room`: nothing is wrong with it, so that the next request tries again at once."""
        model.reason, model.wanted_at = reason, None
        is_room, model.n_skipped = is_room and not model.n_skipped, 0
        backoff_s = 1.0
        if not is_room:
            model.n_failures += 1
            backoff_s = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(20, model.n_failures - 1))
            model.retry_at = now + backoff_s
        if not model.live:
            self._effects.append(Refuse(model.spec.name, reason, backoff_s))

    # --- the rest ---

    def _find(self, replica_id: str) -> tuple[Model, Replica]:
        return self._known[replica_id]

    def _forget(self, model: Model) -> None:
        if model.is_gone and not model.replicas:
            self.models.pop(model.spec.name, None)


def _worth(victim: tuple[Model, Replica]) -> tuple[int, bool, float]:
    model, replica = victim
    return model.spec.memory_priority, replica.n_leases > 0, replica.last_used
