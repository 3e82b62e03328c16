"""Decide which models are in memory, and where. Pure: takes the clock as an argument, returns effects, does nothing.

Laws, which tests drive at random: what replicas take of a device never exceeds what models may have of it; nothing is
unloaded under a lease, nor is a pinned model to make room; who asked first gets room first, and what was promised to
him no later one takes, so that every request is answered or refused. Knows no thread, no request and no file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

from llamahost.fleet.machine.devices import NO_TROUBLE, Device, Trouble
from llamahost.fleet.machine.fit import Shape
from llamahost.fleet.machine.footprint import FileFacts, Footprint
from llamahost.fleet.memory.memory import Memory
from llamahost.fleet.memory.placement import Bytes
from llamahost.fleet.memory.residents import STAY_S, Effect, Look, Measured, Model, Refuse, Replica, Unload
from llamahost.fleet.memory.settle import BACKOFF_S, MAX_BACKOFF_S, Settling
from llamahost.fleet.settings.manifest import ModelSpec

__all__ = ["BACKOFF_S", "LOST_AGAIN_S", "LOST_S", "Residency"]

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
        "sampling",
        "max_sampling",
        "keep_prefixes",
    }
)
"""Fields of a spec that a change of does not load the model anew for."""


NO_STAMPS: Mapping[str, object] = {}


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
        self._settling = Settling(self.models, self._memory)
        self._lost_s = lost_s
        self._now = -math.inf  # of the last tick

    # --- what happens; each returns what to do about it ---

    def equip(
        self, devices: Sequence[Device], room: Bytes, now: float, *, trouble: Trouble = NO_TROUBLE
    ) -> tuple[Effect, ...]:
        """These are the devices; until they are known, everyone waits."""
        self.say_trouble(trouble)
        self._memory.devices = tuple(devices)
        self._memory.room.update(room)
        return self.tick(now)

    def say_trouble(self, trouble: Trouble) -> None:
        """With the devices, or without any."""
        self._memory.falls_back = trouble.falls_back and bool(trouble.told)
        self._settling.trouble = trouble

    def begin(self, now: float) -> tuple[Effect, ...]:
        """Load what is to be there from the start."""
        for model in self.models.values():
            if model.spec.load == "start":
                self._settling.want(model, now, may_evict=False)
        return self.tick(now)

    def want(self, name: str, now: float) -> tuple[Effect, ...]:
        """Somebody waits for this model, or asked for it by hand."""
        model = self.models[name]
        if model.current and not model.is_gone:
            return ()
        if now < model.retry_at:
            return (Refuse(name, model.reason, model.retry_at - now),)
        self._settling.want(model, now, may_evict=True)
        return self.tick(now)

    def unwant(self, name: str) -> None:
        """Nobody waits for it any more."""
        model = self.models.get(name)
        if model is not None and not model.live and model.spec.load == "request":
            model.wanted_at = None

    def looked(
        self, look: Look, facts: FileFacts, now: float, measured: Mapping[Shape, Footprint] | None = None
    ) -> tuple[Effect, ...]:
        """What its file says of itself, and what loads of it were seen to take before."""
        model = self.models.get(look.name)
        if model is not None and model.look == look.turn:
            if model.seen != facts.stamp:
                model.measured.clear()
            model.measured = {**(measured or {}), **model.measured}
            model.facts, model.seen, model.is_looking = facts, facts.stamp, False
        return self.tick(now)

    def failed_look(self, look: Look, reason: str, now: float) -> tuple[Effect, ...]:
        model = self.models.get(look.name)
        if model is not None and model.look == look.turn:
            model.is_looking = False
            self._settling.fail(model, reason, now)
        return self.tick(now)

    def loaded(self, replica_id: str, measured: Measured | None, now: float) -> tuple[Effect, ...]:
        """It is ready, unless it was unloaded meanwhile. Whoever waits is served before the next `tick`."""
        model, replica = self._find(replica_id)
        if measured is not None:
            replica.bytes = measured.bytes
            is_as_now = replica.seen == model.seen and not replica.is_doomed  # its file and settings
            if is_as_now and replica.placement.is_whole and replica.placement.shape is not None:
                model.measured[replica.placement.shape] = measured.footprint
        replica.stays_until = now + min(STAY_S, max(0.0, now - replica.last_used))  # since when it was being loaded
        replica.last_used = replica.ready_at = now
        if replica.is_doomed:
            replica.state = "unloading"
            return (Unload(replica_id),)
        replica.state = "ready"
        model.wanted_at, model.reason, model.n_failures = None, "", 0
        for old in model.old:
            self._settling.drain(old)  # with the next tick
        return ()

    def failed(self, replica_id: str, reason: str, now: float, *, is_memory: bool = False) -> tuple[Effect, ...]:
        """A load failed. `is_memory`: a smaller shape may succeed, and is tried at once."""
        model, replica = self._find(replica_id)
        model.replicas.remove(replica)
        del self._settling.known[replica_id]
        if is_memory and not replica.is_doomed and not model.is_gone and not model.current:
            model.n_skipped += 1
            self._settling.want(model, now, may_evict=model.may_evict)
            model.reason = reason
        elif not replica.is_doomed:
            self._settling.fail(model, reason, now)
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
        del self._settling.known[replica_id]
        if not model.replicas:
            model.facts = None  # the file may be another by the time it is wanted again
        self._forget(model)
        return self.tick(now)

    def unload(self, name: str, now: float) -> tuple[Effect, ...]:
        """By hand: every replica goes as soon as nobody uses it, pinned or not."""
        model = self.models[name]
        waits = model.wanted_at is not None or not model.is_ready
        model.wanted_at, model.is_looking, model.look = None, False, 0  # what is fetched for it is fetched no more
        model.retry_at, model.again_at, model.reason = -math.inf, math.inf, ""
        for replica in model.live:
            self._settling.drain(replica)
        if waits:
            self._settling.effects.append(Refuse(name, "it was unloaded by hand", 1.0))
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
        self._settling.drain(replica)
        if not model.is_gone:
            again = " (again, soon after it was loaded anew)" if model.n_lost > 1 else ""
            model.reason, model.retry_at = reason + again, now + delay_s
            if not model.live:
                self._settling.want(model, now, may_evict=False)
        return self.tick(now)

    def quarantine(self, device_id: str, reason: str, now: float) -> tuple[Effect, ...]:
        """Put nothing on this device any more; what is on it goes, and comes back elsewhere if it can."""
        self._memory.quarantined[device_id] = reason
        for model in self.models.values():
            for replica in model.live:
                if device_id in replica.placement.devices:
                    replica.reason = reason
                    self._settling.drain(replica)
                    if not model.live and not model.is_gone:
                        model.reason = reason
                        self._settling.want(model, now, may_evict=False)
        return self.tick(now)

    def is_out_of_use(self, devices: Collection[str]) -> bool:
        """Whether one of these is."""
        return not self._memory.quarantined.keys().isdisjoint(devices)

    @property
    def devices(self) -> tuple[Device, ...]:
        """Those that there are, out of use or not."""
        return self._memory.devices

    def end(self) -> None:
        """Load nothing any more, whoever waits for it."""
        self._memory.devices = ()
        self._settling.is_over = True
        for model in self.models.values():
            model.wanted_at = None

    def resize(self, room: Bytes, most: Bytes) -> None:
        """What models may take of each device, as it was seen: at least, and at most, had loads all they are granted.

        Between the two what was known before holds: a load that has taken a half of its own makes nothing smaller.
        """
        known = self._memory.room
        known.update({name: min(most[name], max(n, known.get(name, n))) for name, n in room.items()})

    def adopt(
        self,
        specs: Sequence[ModelSpec],
        now: float,
        *,
        max_loaded: int | None = None,
        may_page: bool | None = None,
        stamps: Mapping[str, object] = NO_STAMPS,
    ) -> tuple[Effect, ...]:
        """A manifest that was changed: only what changed is touched, files among it, by their `stamps` as they are now.

        What is loaded otherwise answers on until it is there as it should be, where there is room for both.
        """
        self._memory.allow(max_loaded)
        if may_page is not None:
            self._memory.may_page = may_page
        new = {spec.name: spec for spec in specs}
        for name, model in tuple(self.models.items()):
            if name not in new:
                self._take_out(model)
        for name, spec in new.items():
            known = self.models.get(name)
            if known is None:
                self.models[name] = known = Model(spec)
                if spec.load == "start":
                    self._settling.want(known, now, may_evict=False)
                continue
            was, known.spec = known.spec, spec
            if known.is_gone:  # and has come back before its last replica went
                known.is_gone = False
                if spec.load == "start":
                    self._settling.want(known, now, may_evict=False)
            stamp = stamps.get(name)
            if differ(was, spec) or any(_is_other(each, stamp) for each in known.current):
                self._change(known, now, stamp)
            elif was.load != spec.load == "start" and not known.live:
                self._settling.want(known, now, may_evict=False)
        for name in (*new, *(each for each in self.models if each not in new)):  # in the manifest's order
            self.models[name] = self.models.pop(name)
        return self.tick(now)

    def try_again(self, now: float) -> None:
        """With the next tick, whatever could not be loaded: somebody may have mended what kept it."""
        for model in self.models.values():
            model.retry_at = min(model.retry_at, now)
            model.again_at = now if model.again_at < math.inf else math.inf

    def _take_out(self, model: Model) -> None:
        model.is_gone, model.wanted_at = True, None
        for replica in model.live:
            self._settling.drain(replica)
        self._settling.effects.append(Refuse(model.spec.name, "it was taken from the manifest", 60.0))
        self._forget(model)

    def _change(self, model: Model, now: float, stamp: object) -> None:
        """Its spec is another: nothing that was known of it holds, and what is loaded for the old one is to go."""
        is_wanted = bool(model.live) or model.wanted_at is not None or model.spec.load == "start"
        model.is_looking, model.look = False, 0
        model.measured.clear()
        model.facts, model.n_skipped, model.n_failures, model.retry_at, model.reason = None, 0, 0, -math.inf, ""
        for replica in model.live:
            replica.is_old = replica.made_for is None or differ(replica.made_for, model.spec)
            replica.is_old |= _is_other(replica, stamp)
            if replica.is_old and replica.state == "loading":
                self._settling.drain(replica)
        if is_wanted:
            self._settling.want(model, now, may_evict=model.may_evict)

    def tick(self, now: float) -> tuple[Effect, ...]:
        """Unload what has idled, load what is wanted and has room. Any number of times, at any time."""
        for model in self.models.values():
            if now >= model.retry_at > -math.inf:
                model.retry_at = -math.inf  # it has come
                if model.comes_again:
                    self._settling.want(model, now, may_evict=False)
            if now >= model.again_at:
                model.again_at = math.inf
                if model.comes_again:
                    self._settling.want(model, now, may_evict=False)
            idle_s = model.spec.idle_s
            if idle_s is not None and now - model.idle_since >= idle_s:
                for replica in model.live:
                    self._settling.drain(replica)
        self._now = now
        self._settling.plan(now)
        effects, self._settling.effects = tuple(self._settling.effects), []
        return effects

    # --- what is ---

    def next_at(self) -> float:
        """When `tick` has something to do though nothing happens; infinite where never."""
        times: list[float] = []
        for model in self.models.values():
            comes_again = model.comes_again
            if model.retry_at > -math.inf and (comes_again or model.wanted_at is not None or model.live):
                times.append(model.retry_at)
            if comes_again:
                times.append(model.again_at)
            if model.spec.idle_s is not None:
                times.append(model.idle_since + model.spec.idle_s)
        if self._settling.is_anyone_waiting:
            ready = (each for model in self.models.values() for each in model.live)
            times += [until for each in ready if (until := each.young_until(self._now)) > self._now]
        return min(times, default=math.inf)

    @property
    def is_anyone_waiting(self) -> bool:
        """For room that others have."""
        return self._settling.is_anyone_waiting

    def n_wanted(self, model: Model) -> int:
        """Replicas of it."""
        return self._memory.n_wanted(model.spec)

    def taken(self, *, in_truth: bool = False) -> Mapping[str, int]:
        """See Memory.taken."""
        return self._memory.taken(in_truth=in_truth)

    def room(self) -> Mapping[str, int]:
        return self._memory.room

    # --- the rest ---

    def _find(self, replica_id: str) -> tuple[Model, Replica]:
        return self._settling.known[replica_id]

    def _forget(self, model: Model) -> None:
        if model.is_gone and not model.replicas:
            self.models.pop(model.spec.name, None)


def differ(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether a replica of one is none of the other."""
    return any(
        getattr(one, each.name) != getattr(other, each.name) for each in fields(one) if each.name not in _IN_PLACE
    )


def _is_other(replica: Replica, stamp: object) -> bool:
    """Whether it was made of another file than the one with this stamp, if that is known."""
    return stamp is not None and replica.seen is not None and replica.seen != stamp
