"""The fleet: leases on models that come and go. What is in memory, residency decides; this shell does it.

State has one writer, the loop: threads that load tell it what they did. A lease holds its replica in memory; unloading
waits for the leases, takes the engine off its worker, and only then closes the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from llamahost.core.errors import LlamahostError, LoadFailed, ModelNotFound, NoMemory, Unavailable
from llamahost.core.messages import AdapterUse
from llamahost.core.observe import FleetEvent, LoadProgress, ModelChanged
from llamahost.engine.outbox import Outbox
from llamahost.engine.worker import Watch
from llamahost.fleet import residents
from llamahost.fleet.adapters import AdapterSpec, adapter_named
from llamahost.fleet.devices import Device, Devices, HostDevices
from llamahost.fleet.loading import Facts, Load, Loading
from llamahost.fleet.manifest import Manifest, ModelSpec, ServerSettings
from llamahost.fleet.place import Place, Running, Waiter
from llamahost.fleet.policy import ANYTHING, Wants
from llamahost.fleet.replica import Replica
from llamahost.fleet.residency import LOST_S, Residency
from llamahost.fleet.residents import Effect, Refuse
from llamahost.fleet.room import room_of
from llamahost.fleet.status import ModelStatus, ReplicaStatus, State

__all__ = ["Fleet", "Load", "ModelStatus", "ReplicaStatus", "State"]

logger = logging.getLogger("llamahost.fleet")

LOAD_PATIENCE_S = 5.0
"""How long closing waits for a load that runs: it cannot be stopped, but need not be waited for either."""
LEASE_PATIENCE_S = 0.5
"""How long closing waits for leases whose streams it has ended: their holders may be waiting for a client."""
CLOSE_PATIENCE_S = 5.0
"""How long closing waits for a step that does not return."""
_epochs = itertools.count(1)

WAIT_S = 600.0
"""How long a request waits for a load when it gives no deadline."""


class Fleet:
    """Owned by the loop that starts it. One model answers to any name unless `is_strict`; several want theirs."""

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        load: Load,
        *,
        is_strict: bool = False,
        reader_stall_s: float = 60.0,
        reload_delay_s: float = LOST_S,
        settings: ServerSettings | None = None,
        devices: Devices | None = None,
        facts: Facts | None = None,
    ) -> None:
        self._settings = settings or ServerSettings()
        self._devices = devices or HostDevices(self._settings.host_bytes)
        may_page = len(specs) == 1 and not self._devices.is_budgeted
        self._residency = Residency(
            specs, max_loaded=self._settings.max_loaded, may_page=may_page, lost_s=reload_delay_s
        )
        self._places: dict[str, Place] = {}
        self._names: dict[str, Place] = {}
        self._plain: dict[str, ModelSpec] = {}  # the manifest's own, of those that were loaded otherwise by hand
        self._list()
        self._load, self._facts = load, facts
        self._reader_stall_s = reader_stall_s
        self._loading: Loading | None = None
        self._is_strict = is_strict
        self._tasks: set[asyncio.Task[None]] = set()
        self._closes: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[FleetEvent], None]] = []
        self._told: dict[str, State] = {}
        self._first_free: Mapping[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._clock: Callable[[], float] = time.monotonic  # the loop's own, once there is one
        self._is_draining = False
        self._is_closed = False

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    @property
    def _outbox(self) -> Outbox | None:
        return self._loading.outbox if self._loading is not None else None

    # --- life ---

    def start(self) -> None:
        """Begin to load every model that is to be there from the start, and return at once."""
        self._clock = asyncio.get_running_loop().time
        self._loading = Loading(self._load, self._facts, reader_stall_s=self._reader_stall_s)
        self._do(self._residency.begin(self._now()))
        self._spawn(self._equip(self._loading))

    async def _equip(self, loading: Loading) -> None:
        devices, self._first_free = await loading.devices(self._devices)
        if self._devices.trouble:
            logger.warning("%s", self._devices.trouble)
        room = room_of(devices, self._first_free, self._settings)
        trouble = "" if self._settings.cpu_fallback else self._devices.trouble
        is_broken = self._devices.is_broken
        self._do(self._residency.equip(devices, room, self._now(), trouble=trouble, is_broken=is_broken))

    async def wait_ready(self) -> None:
        """Wait until every model that is to be there is ready. Raises LoadFailed with the first reason."""
        for place in tuple(self._places.values()):
            if place.spec.load == "start":
                await place.settled.wait()
                if place.state == "failed":
                    raise LoadFailed(place.model.reason)

    def drain(self) -> None:
        """Grant no lease from now on. Idempotent."""
        self._is_draining = True
        for place in self._places.values():
            place.refuse(Unavailable("the server is shutting down"))

    async def close(self, drain_s: float = 0.0) -> None:
        """Drain for `drain_s`, end the streams that are left with Unavailable, unload all, end the threads."""
        self.drain()
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        places = tuple(self._places.values())
        if drain_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    for place in places:
                        await place.idle.wait()
        if self._loading is None:
            return
        self._loading.is_closed = True
        for place in places:
            for running in place.running.values():
                running.replica.refuse(Unavailable("the server is shutting down"))
        loads = tuple(self._tasks)
        if loads:
            await asyncio.wait(loads, timeout=LOAD_PATIENCE_S)
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEASE_PATIENCE_S):
                for place in places:
                    await place.idle.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_PATIENCE_S):
                for place in places:
                    for id_ in tuple(place.running):
                        await self._close_replica(id_)
                for task in tuple(self._closes):
                    await asyncio.shield(task)
        await self._loading.close(CLOSE_PATIENCE_S)

    # --- leases ---

    @asynccontextmanager
    async def lease(self, name: str, n_jobs: int = 1, *, wants: Wants = ANYTHING) -> AsyncIterator[Replica]:
        """A replica of the model, kept in memory until the lease ends.

        `n_jobs` answers count against its queue; with 0 the lease is for the vocabulary alone and never Overloaded.
        Waits for a model that is loaded on request. Raises ModelNotFound, Unavailable, Overloaded.
        """
        place = self._find(name)
        if self._is_draining:
            raise Unavailable("the server is shutting down")
        running = place.choose(n_jobs, wants)
        if running is None:
            running = await self._waited(place, n_jobs, wants)
        else:
            self._take(place, running, n_jobs)
        began = self._now()
        try:
            yield running.replica
        finally:
            self._give_back(place, running, n_jobs, began)

    def _take(self, place: Place, running: Running, n_jobs: int) -> None:
        self._residency.leased(running.record.id, self._now())
        place.take(running, n_jobs)

    def _give_back(self, place: Place, running: Running, n_jobs: int, began: float) -> None:
        now = self._now()
        effects = () if self._is_closed else self._residency.released(running.record.id, now)
        place.give_back(running, n_jobs, now - began)
        if effects or (place.spec.idle_s is not None and self._timer is None):
            self._do(effects)

    async def _waited(self, place: Place, n_jobs: int, wants: Wants, *, is_by_hand: bool = False) -> Running:
        """One that is being loaded, or is loaded for this. Raises Unavailable, Overloaded."""
        model = place.model
        if model.spec.load == "hand" and not is_by_hand and not model.live and model.wanted_at is None:
            raise Unavailable(f"`{place.spec.name}` is not loaded, and is loaded by hand alone", retry_after_s=60.0)
        if not model.live and model.wanted_at is None:
            place.is_on_demand = True
        place.check_queue(n_jobs)
        waits = place.spec.when_loading == "wait" or (place.spec.when_loading == "auto" and place.is_on_demand)
        waits = waits if wants.waits is None else wants.waits
        waiter = Waiter(n_jobs, wants, asyncio.get_running_loop().create_future())
        at = next((k for k, each in enumerate(place.waiters) if each.wants.priority < wants.priority), None)
        place.waiters.insert(len(place.waiters) if at is None else at, waiter)
        try:
            self._do(self._residency.want(place.spec.name, self._now()))  # may refuse, which is told by the future
            if not waits and not waiter.granted.done():
                raise Unavailable(place.loading_told(), retry_after_s=2.0)
            deadline = wants.deadline if wants.deadline is not None else self._now() + WAIT_S
            async with asyncio.timeout_at(deadline):
                return await waiter.granted
        except TimeoutError as error:
            self._undo(place, waiter)
            raise Unavailable(f"{place.loading_told()}, beyond this request's time", retry_after_s=2.0) from error
        except asyncio.CancelledError:
            self._undo(place, waiter)
            raise
        finally:
            with contextlib.suppress(ValueError):
                place.waiters.remove(waiter)
            if not place.waiters and waits and not is_by_hand:
                self._residency.unwant(place.spec.name)

    def _undo(self, place: Place, waiter: Waiter) -> None:
        """Granted in the very turn in which it was given up."""
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self._give_back(place, granted.result(), waiter.n_jobs, self._now())

    def _grant(self, place: Place) -> None:
        """Serve those that waited, in their order, before anything else is decided."""
        while place.waiters:
            waiter = place.waiters[0]
            if not waiter.granted.done():
                try:
                    running = place.choose(waiter.n_jobs, waiter.wants)
                except LlamahostError as error:
                    waiter.granted.set_exception(error)
                else:
                    if running is None:
                        return
                    self._take(place, running, waiter.n_jobs)
                    waiter.granted.set_result(running)
            place.waiters.popleft()

    def _find(self, name: str) -> Place:
        if not self._places:
            raise Unavailable(
                "no model is served here: start llamahost with the path of a GGUF file", retry_after_s=60.0
            )
        place = self._names.get(name)
        if place is not None:
            return place
        if len(self._places) == 1 and (not name or not self._is_strict):
            return next(iter(self._places.values()))
        nearest = difflib.get_close_matches(name, self._names, n=1, cutoff=0.5)
        raise ModelNotFound(name, nearest=nearest[0] if nearest else "")

    # --- by hand ---

    async def load(self, name: str, overrides: Mapping[str, Any] | None = None) -> None:
        """Load a model, with other settings than the manifest's if any are given, and wait until it is ready.

        What is not given is the manifest's, whatever was given before; one that is ready stays as it is for none.
        Raises ModelNotFound, ManifestError on a bad setting, Unavailable with the reason where it cannot be loaded.
        """
        place = self._find(name)
        plain = self._plain.get(place.spec.name, place.spec)
        wanted = replace(plain, **(overrides or {})) if overrides or not place.ready() else place.spec
        if wanted != place.spec:
            self._plain[plain.name] = plain
            specs = [wanted if each.model is place.model else each.spec for each in self._places.values()]
            self._adopt(specs)
        if not place.ready():
            place.model.retry_at = -math.inf  # whoever asks by hand does not wait for a backoff
            running = await self._waited(place, 0, Wants(waits=True), is_by_hand=True)
            self._give_back(place, running, 0, self._now())

    # --- adapters ---

    def named(self, name: str) -> tuple[str, str]:
        """The model and the adapter that a request's model means. Raises ModelNotFound for an adapter that is none."""
        if name in self._names:
            return name, ""
        found = adapter_named(name, {known: place.spec.adapters for known, place in self._names.items()})
        if found is not None:
            return found
        model, colon, adapter = name.rpartition(":")
        adapters = [spec.name for spec in self._names[model].spec.adapters] if colon and model in self._names else []
        if adapters:
            nearest = difflib.get_close_matches(adapter, adapters, n=1)
            raise ModelNotFound(name, nearest=f"{model}:{nearest[0]}" if nearest else model)
        return name, ""

    def uses(self, model: str, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """By names, what is given by numbers too. Raises ModelNotFound, InvalidRequest."""
        place = self._find(model)
        return tuple(AdapterUse(place.adapter(use.adapter, "lora").name, use.scale) for use in uses)

    async def load_adapter(self, model: str, spec: AdapterSpec) -> None:
        """Put an adapter beside a model's replicas, and beside those to come. Raises as `lease`, and InvalidRequest."""
        async with self.lease(model, n_jobs=0) as replica:
            await replica.load_adapter(spec)
            place = self._find(model)
            await self._change_adapters(place, (*place.spec.adapters, spec))

    async def unload_adapter(self, model: str, name: str) -> None:
        """Answer nobody new with it; answers that are being made go on. Raises ModelNotFound, InvalidRequest."""
        place = self._find(model)
        kept = tuple(spec for spec in place.spec.adapters if spec.name != place.adapter(name, "lora_name").name)
        await self._change_adapters(place, kept)

    async def scale_adapters(self, model: str, scales: Mapping[int | str, float]) -> None:
        """How adapters work for requests that name none; those left out do not. Raises as `unload_adapter`."""
        place = self._find(model)
        await self._change_adapters(place, place.scaled(scales))

    async def _change_adapters(self, place: Place, specs: tuple[AdapterSpec, ...]) -> None:
        place.model.spec = replace(place.spec, adapters=specs)
        for running in place.ready():
            await running.replica.adapt(specs)

    async def _adapt(self, place: Place, running: Running) -> None:
        """Those that changed while it was loaded, or by another manifest."""
        try:
            await running.replica.adapt(place.spec.adapters)
        except LlamahostError as error:
            logger.error("%s", error)

    async def unload(self, name: str) -> None:
        """Take a model out of memory when its leases have ended, pinned or not, and wait for that. Idempotent."""
        place = self._find(name)
        self._do(self._residency.unload(place.spec.name, self._now()))
        await place.empty.wait()

    async def adopt(self, manifest: Manifest) -> None:
        """Another manifest: only what changed is touched. Returns when it is decided, not when all is loaded."""
        self._settings = manifest.server
        self._plain.clear()
        self._adopt(manifest.models)

    def _adopt(self, specs: Sequence[ModelSpec]) -> None:
        effects = self._residency.adopt(specs, self._now(), max_loaded=self._settings.max_loaded)
        self._list()
        self._do(effects)
        for place in self._places.values():
            for running in place.ready():
                if running.replica.adapters.specs != place.spec.adapters:
                    self._spawn(self._adapt(place, running))

    def quarantine(self, device_id: str, reason: str) -> None:
        """A device is lost: streams on it end with an error, and nothing is put there until `release`."""
        for place in self._places.values():
            for running in place.running.values():
                if device_id in running.record.placement.devices:
                    running.replica.refuse(Unavailable(f"`{place.spec.name}` lost its device {device_id}: {reason}"))
        self._do(self._residency.quarantine(device_id, reason, self._now()))

    def devices(self) -> tuple[Device, ...]:
        """Where models can be put; nothing before they are known."""
        return self._residency.devices

    def release(self, device_id: str) -> None:
        """The device may be used again."""
        self._do(self._residency.release(device_id, self._now()))

    # --- told ---

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every model as it stands now, in the manifest's order."""
        now = self._now()
        stalled: dict[str, bool] = {}

        def is_stalled(device: str) -> bool:
            if device not in stalled:
                stalled[device] = self._loading is not None and self._loading.watch(device).is_stalled
            return stalled[device]

        return tuple(place.status(now, is_stalled) for place in self._places.values() if not place.model.is_gone)

    def watch(self) -> Watch:
        """Whether a step does not return. Never waits for it."""
        if self._loading is None:
            return Watch(is_stalled=False, busy_for_s=0.0, n_steps=0)
        return self._loading.watch()

    def listen(self, callback: Callable[[FleetEvent], None]) -> Callable[[], None]:
        """Have every event told on the loop from now on; returns what ends that. The callback returns at once."""
        self._listeners.append(callback)

        def unlisten() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return unlisten

    def _tell(self, event: FleetEvent) -> None:
        for callback in tuple(self._listeners):
            try:
                callback(event)
            except Exception:
                logger.exception("a listener failed")

    # --- doing what was decided ---

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case residents.Look(name):
                    self._spawn(self._look(name))
                case residents.Load():
                    self._spawn(self._open(effect))
                case residents.Unload(replica_id):
                    self._spawn(self._close_replica(replica_id), self._closes)
                case Refuse(name, _, retry_after_s):
                    if (place := self._places.get(name)) is not None:
                        place.is_on_demand = False
                        place.refuse(place.unavailable(retry_after_s))
        self._note()
        self._schedule()

    def _note(self) -> None:
        """See what changed, tell it, and wake whoever waits for it."""
        seen: dict[str, State] = {}
        for place in tuple(self._places.values()):
            state, model = place.state, place.model
            (place.settled.clear if state in ("loading", "draining") else place.settled.set)()
            (place.empty.clear if model.replicas else place.empty.set)()
            for record in model.replicas:
                seen[record.id] = residents_state = _state_of(record)
                if self._told.get(record.id) != residents_state:
                    self._tell(ModelChanged(place.spec.name, record.id, residents_state, record.reason))
            seen[place.spec.name] = state
            if self._told.get(place.spec.name, "unloaded") != state:
                self._tell(ModelChanged(place.spec.name, "", state, "" if state == "ready" else model.reason))
        for id_ in self._told.keys() - seen.keys():
            if "#" in id_:
                self._tell(ModelChanged(id_.rpartition("#")[0], id_, "unloaded", ""))
        self._told = seen

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._residency.next_at()
        if at < math.inf and not self._is_closed and self._loading is not None:
            self._timer = asyncio.get_running_loop().call_at(max(at, self._now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._do(self._residency.tick(self._now()))

    async def _look(self, name: str) -> None:
        loading, spec = self._loading, self._places[name].spec
        assert loading is not None
        try:
            facts = await loading.look(spec)
            devices, free = await loading.devices(self._devices)
            taken = self._residency.taken(in_truth=True)
            self._residency.resize(room_of(devices, free, self._settings, taken=taken, first=self._first_free))
        except LlamahostError as error:
            logger.error("%s", error)
            self._do(self._residency.failed_look(name, str(error), self._now()))
        except Exception as error:
            logger.exception("could not look at %s", name)
            self._do(self._residency.failed_look(name, f"{type(error).__name__}: {error}", self._now()))
        else:
            self._do(self._residency.looked(name, facts, self._now()))

    async def _open(self, effect: residents.Load) -> None:
        """Load; ready or failed in the end."""
        loading, id_ = self._loading, effect.replica
        place = self._places[effect.spec.name]
        assert loading is not None
        loop = asyncio.get_running_loop()
        last = 0.0

        def on_progress(fraction: float) -> None:
            nonlocal last
            place.progress[id_] = fraction
            if self._listeners and (fraction - last >= 0.01 or fraction >= 1.0):
                last = fraction
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                    loop.call_soon_threadsafe(self._tell, LoadProgress(place.spec.name, id_, fraction))

        try:
            opened = await loading.open(id_, effect.spec, on_progress)
        except LlamahostError as error:
            logger.error("%s", error)
            self._failed(id_, str(error), is_memory=isinstance(error, NoMemory))
            return
        except Exception as error:
            logger.exception("could not load %s", id_)
            self._failed(id_, f"{type(error).__name__}: {error}")
            return
        finally:
            place.progress.pop(id_, None)
        if opened is None:
            self._failed(id_, "")
            return

        def on_lost(reason: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to mend it
                loop.call_soon_threadsafe(self._lost, id_, reason)

        record = next(each for each in place.model.replicas if each.id == id_)
        measured = opened.measured(effect.placement.devices)
        running = Running(loading.replica(opened, effect.placement.devices, on_lost), record, measured, next(_epochs))
        place.running[id_] = running
        if running.replica.adapters.specs != place.spec.adapters:
            self._spawn(self._adapt(place, running))
        effects = self._residency.loaded(id_, measured, self._now())
        if record.state == "ready":
            place.is_on_demand = False
        self._grant(place)
        self._do((*effects, *self._residency.tick(self._now())))

    def _failed(self, replica_id: str, reason: str, *, is_memory: bool = False) -> None:
        if self._is_closed:
            return
        self._do(self._residency.failed(replica_id, reason, self._now(), is_memory=is_memory))

    def _lost(self, replica_id: str, reason: str) -> None:
        """A backend is gone: its jobs have failed, what is needed now is a new one."""
        place = self._places.get(replica_id.rpartition("#")[0])
        if self._is_closed or place is None or replica_id not in place.running:
            return
        logger.error("`%s` is lost: %s", replica_id, reason)
        self._do(self._residency.lost(replica_id, reason, self._now()))

    async def _close_replica(self, replica_id: str) -> None:
        place = self._places[replica_id.rpartition("#")[0]]
        running = place.running.pop(replica_id, None)
        if running is None:
            return
        await running.replica.close()
        effects = self._residency.unloaded(replica_id, self._now())
        self._list()
        self._do(() if self._is_closed else effects)

    # --- the rest ---

    def _list(self) -> None:
        """Places and names by what residency knows of."""
        known = self._residency.models
        self._places = {name: self._places.get(name) or Place(model) for name, model in known.items()}
        self._names = {
            name: place
            for place in self._places.values()
            if not place.model.is_gone
            for name in (place.spec.name, *place.spec.aliases)
        }

    def _now(self) -> float:
        return self._clock()

    def _spawn(self, work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]] | None = None) -> None:
        kept = self._tasks if tasks is None else tasks
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)


def _state_of(record: residents.Replica) -> State:
    if record.reason:
        return "failed"
    return "draining" if record.state == "unloading" else record.state
