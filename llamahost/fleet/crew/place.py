"""A model of the fleet as it is served: its running replicas, who waits for one, how long leases take.

Owned by the loop, but for `progress`. What is in memory and why, residency knows; here is who uses it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llamahost.core.errors import OutOfReach, Overloaded
from llamahost.engine.engine import EngineStats
from llamahost.fleet.crew.status import ModelStatus, ReplicaStatus, State
from llamahost.fleet.machine.fetches import Fetching
from llamahost.fleet.machine.fit import DEFAULT_N_SLOTS
from llamahost.fleet.memory import residents
from llamahost.fleet.memory.residency import differ
from llamahost.fleet.memory.residents import Measured
from llamahost.fleet.replica.adapters import AdapterStatus, Numbers, rescaled
from llamahost.fleet.replica.card import ModelCard
from llamahost.fleet.replica.replica import Replica
from llamahost.fleet.routing.policy import ReplicaView, Wants, choose
from llamahost.fleet.routing.restored import Restored
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.manifest import ModelSpec, Task
from llamahost.text.remembered import Heard

_STATES: dict[residents.ReplicaState, State] = {
    "loading": "loading",
    "ready": "ready",
    "draining": "draining",
    "unloading": "draining",
}


@dataclass(slots=True, eq=False)
class Running:
    """A loaded replica and how busy it is. `record` is residency's own."""

    replica: Replica
    record: residents.Replica
    measured: Measured | None = None
    epoch: int = 0  # of all loads of all models
    is_stalled: Callable[[], bool] = lambda: False  # whether a step of its device does not return
    restored: tuple[Restored, ...] = ()  # to its slots when it was loaded
    n_in_flight: int = 0

    @property
    def n_room(self) -> int:
        return self.replica.card.n_slots + self.replica.spec.max_queue - self.n_in_flight

    def view(self) -> ReplicaView:
        card = self.replica.card
        return ReplicaView(
            n_in_flight=self.n_in_flight,
            n_room=self.n_room,
            is_ready=self.record.state == "ready",
            id=self.record.id,
            epoch=self.epoch,
            n_slots=card.n_slots,
            n_cells=card.n_cells or 2**31,
            is_stalled=self.is_stalled(),
            restored=self.restored,
        )


@dataclass(slots=True, eq=False)
class Waiter:
    """A request for a replica that is not there yet."""

    n_jobs: int
    wants: Wants
    granted: asyncio.Future[Running]
    is_new: bool = False  # for none of those that are about to be replaced


@dataclass(slots=True, eq=False)
class Place:
    """One model of the manifest."""

    model: residents.Model
    running: dict[str, Running] = field(default_factory=dict)
    waiters: deque[Waiter] = field(default_factory=deque)
    progress: dict[str, float] = field(default_factory=dict)  # written by the threads that load
    fetching: Callable[[], Fetching | None] = lambda: None  # what of its files comes now
    n_leases: int = 0
    is_on_demand: bool = False  # what it is loaded for now is a request
    mean_s: float = 0.0  # of a lease's life, a moving average
    thread_s: float = 0.0  # of their devices' threads, that those had which are gone
    heard: Heard = field(default_factory=Heard)  # by those
    was: tuple[ModelSpec, ModelCard] | None = None  # by what the last of those was loaded, and what it told of itself
    numbers: Numbers = field(default_factory=Numbers)  # of its adapters
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while they change, one replica after another
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # set while ready, or while nothing is under way
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set while nobody holds a lease
    gone: dict[str, asyncio.Event] = field(default_factory=dict)  # by replica, for whoever waits for its end
    _resting: tuple[object, ModelStatus] | None = None  # as it was told while nothing was under way, and of what

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def n_in_flight(self) -> int:
        return sum(each.n_in_flight for each in self.running.values())

    @property
    def is_ready(self) -> bool:
        return self.model.is_ready

    @property
    def is_coming(self) -> bool:
        """Whether it is on its way into memory, without another request for it."""
        return self.state in ("loading", "pulling")

    @property
    def lets_wait(self) -> bool:
        """Whether a request waits for it to come that says nothing of that."""
        is_asked_for = self.is_on_demand or self.spec.load == "request" or self.state == "unloaded"
        return self.spec.when_loading == "wait" or (self.spec.when_loading == "auto" and is_asked_for)

    @property
    def n_waiting(self) -> int:
        """Answers that wait for it to come."""
        return sum(each.n_jobs for each in self.waiters)

    @property
    def _n_may_wait(self) -> int:
        """As many as it will have room for."""
        return (self.spec.n_slots or DEFAULT_N_SLOTS) + self.spec.max_queue

    def n_may_wait(self, waits: bool | None) -> int:
        """Answers that may still wait for it to come, where a request has it come; `waits` is what that says of it."""
        may_come = self.is_coming or (self.state == "unloaded" and self.spec.load != "hand")
        waits = self.lets_wait if waits is None else waits
        return max(0, self._n_may_wait - self.n_waiting) if may_come and waits else 0

    def views(self) -> list[ReplicaView]:
        return [each.view() for each in self.running.values()]

    @property
    def n_slots(self) -> int:
        """Of the replicas that are ready."""
        return sum(each.replica.card.n_slots for each in self.ready())

    @property
    def n_room(self) -> int:
        """Requests that the ready ones could still take."""
        return sum(max(0, each.n_room) for each in self.ready())

    @property
    def card(self) -> ModelCard | None:
        """Of the first of its replicas, while one is loaded."""
        return self._first.replica.card if self._first is not None else None

    @property
    def known(self) -> ModelCard | None:
        """What it can do: by its card, or where it is not loaded by that of its last load, if the next is no other."""
        if self.card is None and self.was is not None and not differ(self.was[0], self.spec):
            return self.was[1]
        return self.card

    @property
    def task(self) -> Task:
        """What it is for, as far as that is known."""
        card, facts = self.card, self.model.facts
        return card.task if card is not None else facts.task if facts is not None else self.spec.task

    @property
    def _first(self) -> Running | None:
        return next(iter(self.ready() or self.running.values()), None) if self.running else None

    def ready(self) -> list[Running]:
        return [each for each in self.running.values() if each.record.state == "ready"]

    def new(self) -> Running | None:
        """One that is as the manifest says."""
        return next((each for each in self.ready() if not each.record.is_old), None)

    def choose(self, n_jobs: int, wants: Wants) -> Running | None:
        """A ready replica; None where there is none. Raises Overloaded where all are full."""
        known = list(self.running.values())
        if len(known) == 1 and wants.pick is choose:  # as for most; it is asked nothing
            (only,) = known
            if only.record.state == "ready" and (n_jobs == 0 or only.n_room > 0):
                return only
        views = [each.view() for each in known]
        ready = [each for each, view in zip(known, views, strict=True) if view.is_ready]
        if not ready:
            return None
        if n_jobs == 0:  # for the vocabulary alone: never refused
            return ready[0]
        best = wants.pick(views)
        if best is None:
            raise Overloaded(
                f"the queue of `{self.spec.name}` is full, with {self.n_in_flight} in flight",
                retry_after_s=self.retry_after_s(),
            )
        return known[best]

    def take(self, running: Running, n_jobs: int) -> None:
        running.n_in_flight += n_jobs
        self.n_leases += 1
        self.idle.clear()

    def give_back(self, running: Running, n_jobs: int, life_s: float) -> None:
        running.n_in_flight -= n_jobs
        if n_jobs:
            self.mean_s = life_s if self.mean_s == 0.0 else 0.9 * self.mean_s + 0.1 * life_s
        self.n_leases -= 1
        if not self.n_leases:
            self.idle.set()

    def adapter(self, key: int | str, param: str) -> AdapterSpec:
        """By name or number. Raises InvalidRequest."""
        return self.numbers.found(key, self.spec.adapters, self.spec.name, param)

    def scaled(self, scales: Mapping[int | str, float]) -> tuple[AdapterSpec, ...]:
        """Its adapters with these default scales, and 0 of those left out. Raises InvalidRequest."""
        chosen = {self.adapter(key, "id").name: scale for key, scale in scales.items()}
        return rescaled(self.spec.adapters, chosen)

    def adapters(self) -> tuple[AdapterStatus, ...]:
        """As they are in all replicas together."""
        tables = [each.replica.adapters for each in self.running.values()]
        numbers = self.numbers.of(self.spec.adapters)
        return tuple(
            AdapterStatus(
                number=numbers[spec.name], spec=spec, n_in_use=sum(table.n_in_use(spec.name) for table in tables)
            )
            for spec in self.spec.adapters
        )

    def left(self, running: Running) -> None:
        """It is closed; what it counted is counted on, and what it could do is remembered."""
        replica, made_for = running.replica, running.record.made_for
        if made_for is not None:
            self.was = made_for, replica.card
        self.thread_s += replica.stats.thread_s
        self.heard = _heard([self.heard, replica.heard])

    def forget(self, replica_id: str) -> None:
        """It is out of memory; another may have its id from now on."""
        if (gone := self.gone.pop(replica_id, None)) is not None:
            gone.set()

    def check_queue(self, n_jobs: int) -> None:
        """Raises Overloaded where as many wait for the load as it will have room for."""
        n_waiting = self.n_waiting
        if n_jobs and n_waiting and n_waiting + n_jobs > self._n_may_wait:
            raise Overloaded(
                f"as many wait for `{self.spec.name}` to be loaded as it takes: {n_waiting}",
                retry_after_s=self.retry_after_s(),
            )

    def refuse(self, error: Exception) -> None:
        """Whoever waits waits in vain."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.granted.done():
                waiter.granted.set_exception(error)

    def loading_told(self) -> str:
        """Why there is no answer yet."""
        name, progress = self.spec.name, max(self.progress.values(), default=0.0)
        if (fetching := self.fetching()) is not None:
            return f"`{name}` is not on this machine yet: {fetching.told()}"
        if self.model.wanted_at is not None and self.model.facts is not None and not self.model.live:
            return f"`{name}` waits for memory that other models still use"
        return f"`{name}` is still loading ({progress:.0%})"

    def loading_left_s(self, now: float) -> float:
        """When to ask again."""
        fetching = self.fetching()
        return 2.0 if fetching is None else fetching.left_s(now)

    def unavailable(self, reason: str, retry_after_s: float = 60.0) -> OutOfReach:
        return OutOfReach(f"`{self.spec.name}` could not be loaded: {reason}", retry_after_s=max(1.0, retry_after_s))

    def retry_after_s(self) -> float:
        """When half of those that wait will have been answered, at the rate of late. Whole seconds in [1, 60]."""
        n_slots = self.n_slots or 1
        n_waiting = max(1, self.n_in_flight - n_slots)
        return min(60.0, max(1.0, math.ceil(self.mean_s * n_waiting / 2 / n_slots)))

    # --- told ---

    @property
    def reason(self) -> str:
        """Why it is not ready."""
        fetching = self.fetching()
        return self.model.reason if fetching is None else fetching.told()

    def _reason_told(self, now: float) -> str:
        """With when it is tried again by itself."""
        model = self.model
        at = model.retry_at if model.retry_at > -math.inf else model.again_at
        if self.fetching() is None and model.comes_again and at < math.inf:
            return f"{self.reason}; it is tried again in {math.ceil(max(0.0, at - now))} s"
        return self.reason

    def _lacking_told(self) -> str:
        """Why a model that answers has not all of its replicas."""
        model, n_there = self.model, len(self.model.current)
        why = model.reason or "there is no room for more"
        return f"{n_there} of {n_there + model.n_lacking} replicas: {why}" if model.n_lacking else ""

    @property
    def state(self) -> State:
        model = self.model
        if model.replicas:  # few have any, where there are thousands
            if model.is_ready:
                return "ready"
            if any(each.state == "loading" for each in model.replicas):
                return "loading"
        if self.fetching() is not None:
            return "pulling"
        if model.reason and (model.wanted_at is None or model.retry_at > -math.inf):
            return "failed"
        if model.wanted_at is not None:
            return "loading"
        return "draining" if model.replicas else "unloaded"

    def status(self, now: float, is_stalled: Callable[[str], bool]) -> ModelStatus:
        """`is_stalled` is asked of the device that owns a replica."""
        if not self._is_at_rest:
            return self._status(now, is_stalled)
        # Of thousands of models most rest, and all are looked at once a second: told anew, each takes 20 us.
        of = (self.spec, self.model.facts, self.heard, self.thread_s)
        if self._resting is None or self._resting[0] != of:
            self._resting = of, self._status(now, is_stalled)
        return self._resting[1]

    @property
    def _is_at_rest(self) -> bool:
        """Not in memory and not on its way there; nobody waits for it, and nothing went wrong."""
        model = self.model
        is_used = model.replicas or self.running or self.waiters or model.reason or model.wanted_at is not None
        return not is_used and self.fetching() is None

    def _status(self, now: float, is_stalled: Callable[[str], bool]) -> ModelStatus:
        state, fetching = self.state, self.fetching()
        progress = 0.0 if fetching is None else fetching.fraction
        replicas = tuple(self._replicas(now, is_stalled))
        stats, task = _together([each.replica.stats for each in self.running.values()]), self.task
        return ModelStatus(
            name=self.spec.name,
            spec=self.spec,
            aliases=self.spec.aliases,
            state=state,
            progress=1.0 if state == "ready" else progress or max((each.progress for each in replicas), default=0.0),
            reason=self._lacking_told() if state == "ready" and not self.model.old else self._reason_told(now),
            task="" if task == "auto" else task,
            load=self.spec.load,
            n_slots=self.n_slots,
            n_in_flight=self.n_in_flight,
            n_pending=len(self.waiters),
            card=self.card,
            stats=stats,
            heard=_heard([self.heard, *(each.replica.heard for each in self.running.values())]),
            thread_s=self.thread_s + (stats.thread_s if stats is not None else 0.0),
            is_stalled=any(each.is_stalled for each in replicas),
            replicas=replicas,
            adapters=self.adapters(),
        )

    def _replicas(self, now: float, is_stalled: Callable[[str], bool]) -> Iterator[ReplicaStatus]:
        for record in self.model.replicas:
            running = self.running.get(record.id)
            stats = running.replica.stats if running is not None else None
            is_used = running is not None and record.last_used > record.ready_at  # a load is no use of it
            yield ReplicaStatus(
                id=record.id,
                state="failed" if record.reason else _STATES[record.state],
                reason=record.reason,
                progress=self.progress.get(record.id, 0.0) if record.state == "loading" else 1.0,
                devices=record.placement.devices,
                note=record.placement.note,
                estimated=record.placement.footprint,
                measured=running.measured.footprint if running is not None and running.measured is not None else None,
                n_slots=running.replica.card.n_slots if running is not None else 0,
                n_in_flight=running.n_in_flight if running is not None else 0,
                n_waiting=stats.n_waiting if stats is not None else 0,
                n_leases=record.n_leases,
                last_used=time.time() - max(0.0, now - record.last_used) if is_used else 0.0,
                is_stalled=running is not None and is_stalled(record.placement.devices[0]),
                stats=stats,
            )


def _together(stats: Sequence[EngineStats]) -> EngineStats | None:
    """Of all replicas; a step takes what it takes the slowest of them."""
    if not stats:
        return None
    return EngineStats._make(map(sum, zip(*stats, strict=True)))._replace(step_s=max(each.step_s for each in stats))


def _heard(each: Sequence[Heard]) -> Heard:
    return Heard._make(map(sum, zip(*each, strict=True)))
