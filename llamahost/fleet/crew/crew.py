"""Do what residency decides: look, open, close, in tasks and threads; tell what changed, and serve who waited for it.

Owned by the loop, and its one writer. Who may have a lease, the fleet says; what is in memory, residency.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path

from llamahost.core.errors import LlamahostError, NoMemory
from llamahost.core.observe import LoadProgress
from llamahost.core.threads import in_thread
from llamahost.core.work import KeptSlot
from llamahost.fleet.crew.adapted import Adapted
from llamahost.fleet.crew.keeping import Keeping
from llamahost.fleet.crew.kept_files import PrefixFiles
from llamahost.fleet.crew.place import Place, Running
from llamahost.fleet.crew.queues import Queues
from llamahost.fleet.crew.telling import Telling
from llamahost.fleet.machine.devices import Devices, Trouble
from llamahost.fleet.machine.fetches import Fetch, Fetches, Fetching
from llamahost.fleet.machine.fit import Shape
from llamahost.fleet.machine.footprint import FileFacts, Footprint
from llamahost.fleet.machine.room import room_of, strangers
from llamahost.fleet.machine.weighed import Weighed
from llamahost.fleet.memory import residents
from llamahost.fleet.memory.residency import Residency
from llamahost.fleet.memory.residents import Effect, Measured, Refuse
from llamahost.fleet.replica.loading import Loading
from llamahost.fleet.replica.opened import Opened
from llamahost.fleet.routing.restored import restored
from llamahost.fleet.settings.manifest import ModelSpec, ServerSettings

logger = logging.getLogger("llamahost.fleet")

_epochs = itertools.count(1)


class Crew:
    """Owned by the loop. `places` are the models by name, `names` those by any name that they answer to.

    `memories` is the folder of what outlives the process: what loads took, what slots held.
    """

    def __init__(
        self,
        residency: Residency,
        hardware: Devices,
        settings: ServerSettings,
        fetch: Fetch | None = None,
        memories: Path | None = None,
    ) -> None:
        self.residency = residency
        self.hardware = hardware
        self.settings = settings
        self.places: dict[str, Place] = {}
        self.served: tuple[Place, ...] = ()  # those that the manifest has
        self.names: dict[str, Place] = {}
        self.has_adapters = False  # or had: a model does
        self.loading: Loading | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.closes: set[asyncio.Task[None]] = set()
        self.leaving: dict[str, Running] = {}  # in no place any more, and not closed yet
        self.queues = Queues(lambda: self.places.values())
        self.telling = Telling()
        self.timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf  # uvloop's handle of what is due at once does not tell
        self.clock: Callable[[], float] = time.monotonic  # the loop's own, once there is one
        self.is_closed = False
        self.keeping = Keeping(PrefixFiles(memories / "prefixes") if memories is not None else None)
        self._memories = memories
        self._weighed: Weighed | None = None
        self.fetches = Fetches(fetch, self._fetched)
        self._first_free: Mapping[str, int] = {}
        self.list_places()

    def now(self) -> float:
        return self.clock()

    def spawn(self, work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]] | None = None) -> None:
        kept = self.tasks if tasks is None else tasks
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)

    def list_places(self) -> None:
        """Places and names by what residency knows of."""
        before = {id(place.model): place for place in self.places.values()}
        known = self.residency.models
        self.places = {
            name: before.pop(id(model)) if id(model) in before else self._place(name, model)
            for name, model in known.items()
        }
        self.served = tuple(place for place in self.places.values() if not place.model.is_gone)
        self.names = {name: place for place in self.served for name in (place.spec.name, *place.spec.aliases)}
        self.adapted = Adapted(self.names)
        self.has_adapters = self.has_adapters or any(place.spec.adapters for place in self.served)
        for place in before.values():
            place.refuse(place.unavailable("it was taken from the manifest"))
            place.settled.set()

    def _place(self, name: str, model: residents.Model) -> Place:
        return Place(model, fetching=lambda: self.fetches.of(name))

    async def equip(self, loading: Loading) -> None:
        devices, self._first_free = await loading.devices(self.hardware)
        if self.hardware.trouble:
            logger.warning("%s", self.hardware.trouble)
        if self._memories is not None:
            names = tuple(f"{each.id} {each.name}".strip() for each in devices)
            self._weighed = Weighed.of(self._memories, names)
        if told := strangers(devices, self.settings):
            logger.warning("%s", told)
        room = room_of(devices, self._first_free, self.settings)
        self.do(self.residency.equip(devices, room, self.now(), trouble=self._trouble()))
        if not self.is_closed:  # meanwhile
            self.queues.start()

    def _trouble(self) -> Trouble:
        return Trouble(self.hardware.trouble, self.hardware.is_broken, falls_back=self.settings.cpu_fallback)

    # --- leases ---

    def take(self, place: Place, running: Running, n_jobs: int) -> None:
        self.residency.leased(running.record.id, self.now())
        place.take(running, n_jobs)

    def give_back(self, place: Place, running: Running, n_jobs: int, began: float) -> None:
        now = self.now()
        effects = () if self.is_closed else self.residency.released(running.record.id, now)
        place.give_back(running, n_jobs, now - began)
        if effects or self.residency.is_anyone_waiting:
            self.do(effects)
        elif (idle_s := place.spec.idle_s) is not None and self._timer_at > now + idle_s:
            self._schedule()  # while it was leased, it was not waited for

    def grant(self, place: Place) -> None:
        """Serve those that waited, in their order, before anything else is decided."""
        while place.waiters:
            waiter = place.waiters[0]
            if not waiter.granted.done():
                try:
                    running = place.new() if waiter.is_new else place.choose(waiter.n_jobs, waiter.wants)
                except LlamahostError as error:
                    waiter.granted.set_exception(error)
                else:
                    if running is None:
                        return
                    self.take(place, running, waiter.n_jobs)
                    waiter.granted.set_result(running)
            place.waiters.popleft()

    # --- doing what was decided ---

    def do(self, effects: Sequence[Effect]) -> None:
        for effect in effects if not self.is_closed else ():
            match effect:
                case residents.Look():
                    self.spawn(self._look(effect))
                case residents.Load():
                    self.spawn(self._open(effect))
                case residents.Unload(replica_id):
                    self.spawn(self.close_replica(replica_id), self.closes)
                case Refuse(name, reason, retry_after_s, is_news):
                    if is_news:
                        logger.error("%s", reason)
                    if (place := self.places.get(name)) is not None:
                        place.is_on_demand = False
                        place.refuse(place.unavailable(reason, retry_after_s))
        self.fetches.keep(self._is_meant)
        self.telling.note(self.places.values())
        self._schedule()

    def _is_meant(self, name: str, turn: int) -> bool:
        model = self.residency.models.get(name)
        return model is not None and model.is_looking and model.look == turn and not model.is_gone

    def _fetched(self, name: str, fetching: Fetching) -> None:
        """A step of it."""
        if self.telling.state_told(name) != "pulling":
            self.telling.note(self.places.values())
        self.telling.tell(LoadProgress(name, "", fetching.fraction))

    async def _look(self, effect: residents.Look) -> None:
        loading, place = self.loading, self.places.get(effect.name)
        if loading is None or place is None:
            return
        try:
            spec = await self.fetches.have(place.spec, effect.turn, self.now)
            facts = await loading.look(spec)
            measured = await self._known(facts, place.spec)
            await self.see_room()
        except LlamahostError as error:
            if self._is_meant(effect.name, effect.turn) and not self.is_closed:
                logger.error("%s", error)
            self.do(self.residency.failed_look(effect, str(error), self.now()))
        except Exception as error:
            logger.exception("could not look at %s", effect.name)
            self.do(self.residency.failed_look(effect, f"{type(error).__name__}: {error}", self.now()))
        else:
            self.do(self.residency.looked(effect, facts, self.now(), measured))

    async def _known(self, facts: FileFacts, spec: ModelSpec) -> Mapping[Shape, Footprint]:
        """What loads of this file were seen to take, in this process or before."""
        weighed = self._weighed
        if weighed is None:
            return {}
        return await in_thread("weighed", lambda: weighed.known(facts.stamp, spec))

    def _learn(self, record: residents.Replica, spec: ModelSpec, measured: Measured | None) -> None:
        """For the next process."""
        weighed, placement = self._weighed, record.placement
        if weighed is None or measured is None or placement.shape is None or not placement.is_whole:
            return
        shape, taken = placement.shape, measured.footprint
        in_thread("weighed", lambda: weighed.add(record.seen, spec, shape, taken))

    async def keep_all(self) -> None:
        """Write what is to be found again by the next process."""
        for place in self.places.values():
            for running in place.ready() if place.spec.keep_prefixes and self.settings.prefix_disk_bytes else ():
                await self.keeping.keep(running, self.settings, self.residency.n_wanted(place.model))
        await self.keeping.flush(self.settings)

    async def see_room(self, host_bytes: int | None = None, *, is_bounded_anew: bool = False) -> None:
        """How much there is of each device now, by the settings as they are, or by another bound on the CPU's."""
        assert self.loading is not None
        if is_bounded_anew:
            self.hardware = self.hardware.budgeted(host_bytes)
        devices, free = await self.loading.devices(self.hardware)
        for place in self.places.values():
            for running in place.running.values():  # whose adapters come and go
                if (measured := running.replica.measured(running.record.placement.devices)) is not None:
                    running.measured, running.record.bytes = measured, measured.bytes
        taken = self.residency.taken(in_truth=True)
        self.residency.say_trouble(self._trouble())
        if is_bounded_anew:
            self._first_free = {name: n + taken.get(name, 0) for name, n in free.items()}
        least = room_of(devices, free, self.settings, taken=taken, first=self._first_free)
        granted = self.residency.taken()
        most = room_of(devices, free, self.settings, taken=granted, first=self._first_free)
        self.residency.resize(least, least if is_bounded_anew else most)

    async def _open(self, effect: residents.Load) -> None:
        """Load; ready or failed in the end."""
        loading, id_ = self.loading, effect.replica
        if effect.placement.note:
            logger.warning("%s: %s", id_, effect.placement.note)
        place = self.places[effect.spec.name]
        assert loading is not None
        loop = asyncio.get_running_loop()
        last = 0.0

        def on_progress(fraction: float) -> None:
            nonlocal last
            place.progress[id_] = fraction
            if self.telling.is_heard and (fraction - last >= 0.01 or fraction >= 1.0):
                last = fraction
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                    loop.call_soon_threadsafe(self.telling.tell, LoadProgress(place.spec.name, id_, fraction))

        record = next(each for each in place.model.replicas if each.id == id_)
        try:
            kept = await self.keeping.read(record, effect.spec, self.settings)
            opened = await loading.open(id_, effect.spec, on_progress)
        except LlamahostError as error:
            if not self.is_closed:  # by which it was ended
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
        elif (running := await self._attached(loading, opened, record, effect.placement.devices)) is not None:
            await self._restore(place, running, self.keeping.take(record, effect.spec, kept))

    async def _restore(self, place: Place, running: Running, kept: tuple[KeptSlot, ...]) -> None:
        """Serve it with that in its slots, which is told where somebody chooses among several."""
        running.replica.restore(kept)
        try:
            if kept and self.residency.n_wanted(place.model) > 1:
                pieces = running.replica.vocabulary.pieces
                running.restored = await in_thread("prefixes", lambda: restored(kept, pieces))
        finally:  # also where this is cancelled: who closes the fleet is to find it
            self._serve(place, running)

    async def _attached(
        self, loading: Loading, opened: Opened, record: residents.Replica, devices: tuple[str, ...]
    ) -> Running | None:
        """What was opened, on its devices' worker; None where that failed."""
        id_, loop = record.id, asyncio.get_running_loop()

        def on_lost(reason: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to mend it
                loop.call_soon_threadsafe(self._lost, id_, reason)

        try:
            measured = opened.measured(devices)
            replica = loading.replica(opened, devices, on_lost)
            return Running(replica, record, measured, next(_epochs), lambda: loading.is_stalled(devices[0]))
        except Exception as error:
            logger.exception("could not serve %s", id_)
            await loading.discard(opened)
            self._failed(id_, f"{type(error).__name__}: {error}")
            return None

    def _serve(self, place: Place, running: Running) -> None:
        """It is there: who waited for it is served, and others are asked to go or to come."""
        record, measured = running.record, running.measured
        place.running[record.id] = running
        if self.residency.is_out_of_use(record.placement.devices):  # since it was loading
            running.replica.forsake()
        self.fit(place, running)
        if record.made_for is not None:
            self._learn(record, record.made_for, measured)
        effects = self.residency.loaded(record.id, measured, self.now())
        if record.state == "ready":
            place.is_on_demand = False
        self.grant(place)
        self.queues.even(place)
        self.do((*effects, *self.residency.tick(self.now())))

    def _failed(self, replica_id: str, reason: str, *, is_memory: bool = False) -> None:
        place = self.places[replica_id.rpartition("#")[0]]
        effects = self.residency.failed(replica_id, reason, self.now(), is_memory=is_memory)
        place.forget(replica_id)
        self.list_places()
        self.do(effects)

    def _lost(self, replica_id: str, reason: str) -> None:
        """A backend is gone: its jobs have failed, what is needed now is a new one."""
        place = self.places.get(replica_id.rpartition("#")[0])
        if self.is_closed or place is None or replica_id not in place.running:
            return
        logger.error("`%s` is lost: %s", replica_id, reason)
        self.do(self.residency.lost(replica_id, reason, self.now()))

    async def close_replica(self, replica_id: str) -> None:
        place = self.places[replica_id.rpartition("#")[0]]
        running = place.running.pop(replica_id, None)
        if running is None:
            return
        self.leaving[replica_id] = running
        place.left(running)
        if place.spec.keep_prefixes and not running.record.reason and not self.is_closed:
            await self.keeping.keep(running, self.settings, self.residency.n_wanted(place.model))
        try:
            await running.replica.close()
        except Exception:  # what it took is given back all the same, or nothing could be loaded in its place ever
            logger.exception("%s could not be closed as it should", replica_id)
        del self.leaving[replica_id]
        effects = self.residency.unloaded(replica_id, self.now())
        place.forget(replica_id)
        self.list_places()
        self.do(effects)

    def fit(self, place: Place, running: Running) -> None:
        """Have it go by the model's spec as it is now, in what takes no other load."""
        try:
            running.replica.adopt(place.spec)
        except LlamahostError as error:
            logger.error("%s stays as it was: %s", running.record.id, error)
        if place.spec.adapters or running.replica.adapters.specs:  # whose files may be others by now
            self.spawn(self.adapt(place, running))

    async def adapt(self, place: Place, running: Running) -> None:
        """Those that changed while it was loaded, or by another manifest."""
        try:
            async with place.changing:
                await running.replica.adapt(place.spec.adapters)
        except LlamahostError as error:
            logger.error("%s", error)

    def _schedule(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer, self._timer_at = None, math.inf
        at = self.residency.next_at()
        if at < math.inf and not self.is_closed and self.loading is not None:
            self._timer_at = max(at, self.now())
            self.timer = asyncio.get_running_loop().call_at(self._timer_at, self._tick)

    def _tick(self) -> None:
        self.timer, self._timer_at = None, math.inf
        self.do(self.residency.tick(self.now()))
