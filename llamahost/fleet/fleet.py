"""The fleet: leases on models that come and go. What is in memory, residency decides; this shell does it.

State has one writer, the loop: threads that load tell it what they did. A lease holds its replica in memory; unloading
waits for the leases, takes the engine off its worker, and only then closes the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamahost.core.errors import LoadFailed, ModelNotFound, NotThere, OutOfReach, Unavailable
from llamahost.core.messages import AdapterUse
from llamahost.core.observe import FleetEvent
from llamahost.engine.outbox import Outbox
from llamahost.engine.worker import Watch
from llamahost.fleet.crew.again import bounded, replaced
from llamahost.fleet.crew.closing import close
from llamahost.fleet.crew.crew import Crew
from llamahost.fleet.crew.lease import Lease
from llamahost.fleet.crew.place import Place, Running, Waiter
from llamahost.fleet.crew.status import ModelStatus, ReplicaStatus, State
from llamahost.fleet.machine.devices import Device, Devices, HostDevices, is_same_card
from llamahost.fleet.machine.fetches import Fetch
from llamahost.fleet.memory.residency import LOST_S, NO_STAMPS, Residency
from llamahost.fleet.replica.loading import Facts, Load, Loading
from llamahost.fleet.routing.policy import ANYTHING, Wants
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings, in_effect, late

__all__ = ["Fleet", "Load", "ModelStatus", "ReplicaStatus", "State"]

logger = logging.getLogger("llamahost.fleet")

WAIT_S = 600.0
"""How long a request waits for a load when it gives no deadline."""


def _may_page(specs: Sequence[ModelSpec], hardware: Devices) -> bool:
    """Whether weights may be larger than the memory: nothing else would be pushed out, and nobody set a bound."""
    return len(specs) == 1 and not hardware.is_budgeted


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
        fetch: Fetch | None = None,
        memories: Path | None = None,
    ) -> None:
        settings = settings or ServerSettings()
        hardware = devices or HostDevices(settings.host_bytes)
        may_page = _may_page(specs, hardware)
        residency = Residency(specs, max_loaded=settings.max_loaded, may_page=may_page, lost_s=reload_delay_s)
        self._crew = Crew(residency, hardware, settings, fetch, memories)
        self._plain: dict[str, ModelSpec] = {}  # the manifest's own, of those that were loaded otherwise by hand
        self._load, self._facts = load, facts
        self._reader_stall_s = reader_stall_s
        self._is_strict = is_strict
        self._is_draining = False
        self._broken: dict[str, str] = {}  # cards, before devices are known
        self._loop: asyncio.AbstractEventLoop | None = None
        self._adopting = asyncio.Lock()

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    @property
    def _outbox(self) -> Outbox | None:
        return self._crew.loading.outbox if self._crew.loading is not None else None

    # --- life ---

    def start(self) -> None:
        """Begin to load every model that is to be there from the start, and return at once. Idempotent: an application
        starts what it serves, which may have been started by whoever made it. Raises Unavailable after `close`.
        """
        if self._crew.is_closed:
            raise Unavailable("it was closed; make another")
        if self._crew.loading is not None:
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("llamahost wants asyncio; with trio, use a Host in a thread") from None
        self._crew.clock = self._loop.time
        self._crew.loading = Loading(self._load, self._facts, reader_stall_s=self._reader_stall_s)
        self._crew.do(self._crew.residency.begin(self._crew.now()))
        self._crew.spawn(self._equip(self._crew.loading))

    async def _equip(self, loading: Loading) -> None:
        await self._crew.equip(loading)
        for pci_id, reason in self._broken.items():
            self.lose(pci_id, reason)

    async def wait_ready(self) -> None:
        """Wait until every model that is to be there is ready. Raises LoadFailed with the first reason."""
        self._check_here()
        for place in tuple(self._crew.places.values()):
            if place.spec.load == "start":
                await place.settled.wait()
                if place.state == "failed":
                    raise LoadFailed(place.model.reason)

    def drain(self) -> None:
        """Grant no lease from now on. Idempotent."""
        self._is_draining = True
        for place in self._crew.places.values():
            place.refuse(Unavailable("the server is shutting down"))

    async def close(self, drain_s: float = 0.0) -> None:
        """Drain for `drain_s`, end the streams that are left with Unavailable, unload all, end the threads."""
        self.drain()
        if self._crew.is_closed:
            return
        await close(self._crew, drain_s)

    # --- leases ---

    def lease(self, name: str, n_jobs: int = 1, *, wants: Wants = ANYTHING) -> Lease:
        """A replica of the model, kept in memory until the lease ends.

        `n_jobs` answers count against its queue; with 0 the lease is for the vocabulary alone and never Overloaded.
        Entering waits for a model that is loaded on request. Raises ModelNotFound, Unavailable, Overloaded.
        """
        return Lease(self._crew, n_jobs, lambda: self._granted(name, n_jobs, wants))

    async def _granted(self, name: str, n_jobs: int, wants: Wants) -> tuple[Place, Running]:
        place = self._find(name)
        if self._is_draining:
            raise Unavailable("the server is shutting down")
        self._check_here()
        running = place.choose(n_jobs, wants)
        if running is None:
            return place, await self._waited(place, n_jobs, wants)
        self._crew.take(place, running, n_jobs)
        return place, running

    async def _waited(self, place: Place, n_jobs: int, wants: Wants, *, is_by_hand: bool = False) -> Running:
        """One that is being loaded, or is loaded for this. Raises Unavailable, Overloaded."""
        model = place.model
        if model.spec.load == "hand" and not is_by_hand and not model.live and model.wanted_at is None:
            raise OutOfReach(f"`{place.spec.name}` is not loaded, and is loaded by hand alone", retry_after_s=60.0)
        if not model.live and model.wanted_at is None:
            place.is_on_demand = True
        place.check_queue(n_jobs)
        waits = place.lets_wait if wants.waits is None else wants.waits
        waiter = Waiter(n_jobs, wants, asyncio.get_running_loop().create_future(), is_new=is_by_hand)
        at = next((k for k, each in enumerate(place.waiters) if each.wants.priority < wants.priority), None)
        place.waiters.insert(len(place.waiters) if at is None else at, waiter)
        try:
            self._crew.do(
                self._crew.residency.want(place.spec.name, self._crew.now())
            )  # may refuse, which is told by the future
            if not waits and not waiter.granted.done():
                raise Unavailable(place.loading_told(), retry_after_s=place.loading_left_s(self._crew.now()))
            deadline = wants.deadline
            if deadline is None and not is_by_hand:  # its file may have to be fetched first
                deadline = self._crew.now() + WAIT_S
            async with asyncio.timeout_at(deadline):
                return await waiter.granted
        except TimeoutError as error:
            self._undo(place, waiter)
            left_s = place.loading_left_s(self._crew.now())
            raise Unavailable(f"{place.loading_told()}, beyond this request's time", retry_after_s=left_s) from error
        except asyncio.CancelledError:
            self._undo(place, waiter)
            raise
        finally:
            with contextlib.suppress(ValueError):
                place.waiters.remove(waiter)
            if not place.waiters and waits and not is_by_hand:
                self._crew.residency.unwant(place.spec.name)

    def _check_here(self) -> None:
        """Raises Unavailable before `start`, RuntimeError on a loop that is another's: there it would wait forever."""
        if self._loop is None:
            raise Unavailable("nothing was started here: use `async with`, or await `start()`")
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("an AsyncHost answers on the loop that started it alone; a Host is for any thread")

    def _undo(self, place: Place, waiter: Waiter) -> None:
        """Granted in the very turn in which it was given up."""
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self._crew.give_back(place, granted.result(), waiter.n_jobs, self._crew.now())

    def _find(self, name: str) -> Place:
        served = self._crew.served
        if not served:
            raise Unavailable(
                "no model is served here: start llamahost with the path of a GGUF file", retry_after_s=60.0
            )
        place = self._crew.names.get(name)
        if place is not None:
            return place
        if len(served) == 1 and (not name or not self._is_strict):
            return served[0]
        nearest = difflib.get_close_matches(name, self._crew.names, n=1, cutoff=0.5)
        known = tuple(place.spec.name for place in served)
        raise ModelNotFound(name, nearest=nearest[0] if nearest else "", known=known)

    # --- by hand ---

    async def load(self, name: str, overrides: Mapping[str, Any] | None = None) -> None:
        """Load a model, with other settings than the manifest's if any are given, and wait until it is ready.

        What is not given is the manifest's, whatever was given before; one that is ready stays as it is for none.
        Raises ModelNotFound, ManifestError on a bad setting, Unavailable with the reason where it cannot be loaded.
        """
        place = self._find(name)
        if self._is_draining:
            raise Unavailable("the server is shutting down")
        self._check_here()
        plain = self._plain.get(place.spec.name, place.spec)
        wanted = replace(plain, **(overrides or {})) if overrides or not place.ready() else place.spec
        before, had = place.spec, bool(place.ready())
        if wanted != before:
            self._plain[plain.name] = plain
            self._change(place, wanted)
        if place.new() is not None:
            return
        place.model.retry_at = -math.inf  # whoever asks by hand does not wait for a backoff
        try:
            running = await self._waited(place, 0, Wants(waits=True), is_by_hand=True)
        except Unavailable:
            if wanted != before and place.spec is wanted:  # it stays, or comes back, as it was
                self._change(place, before)
                if had and not place.model.current and not self._is_draining:
                    self._crew.do(self._crew.residency.want(before.name, self._crew.now()))
            raise
        self._crew.give_back(place, running, 0, self._crew.now())

    def _change(self, place: Place, spec: ModelSpec) -> None:
        """Have one model otherwise."""
        self._adopt([spec if each is place else each.spec for each in self._crew.served])

    # --- adapters ---

    def named(self, name: str) -> tuple[str, str]:
        """The model and the adapter that a request's model means. Raises ModelNotFound for an adapter that is none."""
        if name in self._crew.names or not self._crew.has_adapters:
            return name, ""
        return self._crew.adapted.find(name)

    def uses(self, model: str, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """By names, what is given by numbers too. Raises ModelNotFound, InvalidRequest."""
        place = self._find(model)
        return tuple(AdapterUse(place.adapter(use.adapter, "lora").name, use.scale) for use in uses)

    async def load_adapter(self, model: str, spec: AdapterSpec) -> None:
        """Put an adapter beside a model's replicas, and beside those to come. Raises as `lease`, and InvalidRequest."""
        async with self.lease(model, n_jobs=0) as replica:
            place = self._find(model)
            async with place.changing:
                await replica.load_adapter(spec)
                others = [each for each in place.spec.adapters if each.name != spec.name]
                await self._change_adapters(place, (*others, spec))

    async def unload_adapter(self, model: str, name: str) -> None:
        """Answer nobody new with it; answers that are being made go on. Raises ModelNotFound, InvalidRequest."""
        place = self._find(model)
        async with place.changing:
            gone = next((spec for spec in place.spec.adapters if spec.name == name), None)
            if gone is None:
                raise NotThere(f"`{place.spec.name}` has no adapter {name!r:.80}", param="lora_name")
            place.numbers.of(place.spec.adapters)  # who asks for it later is not answered without it
            await self._change_adapters(place, tuple(spec for spec in place.spec.adapters if spec != gone))

    async def scale_adapters(self, model: str, scales: Mapping[int | str, float]) -> None:
        """How adapters work for requests that name none; those left out do not. Raises as `unload_adapter`."""
        place = self._find(model)
        async with place.changing:
            await self._change_adapters(place, place.scaled(scales))

    async def _change_adapters(self, place: Place, specs: tuple[AdapterSpec, ...]) -> None:
        place.model.spec = replace(place.spec, adapters=specs)
        self._crew.has_adapters |= bool(specs)
        for running in place.ready():
            await running.replica.adapt(specs)

    async def unload(self, name: str) -> None:
        """Take a model out of memory when its leases have ended, pinned or not, and wait for that. Idempotent."""
        place = self._find(name)
        leaving = [place.gone.setdefault(each.id, asyncio.Event()) for each in place.model.replicas]
        self._crew.do(self._crew.residency.unload(place.spec.name, self._crew.now()))
        for gone in leaving:  # and no other: it may be asked for again meanwhile
            await gone.wait()

    async def adopt(self, manifest: Manifest) -> tuple[str, ...]:
        """Another manifest: only what changed is touched. Returns when it is decided, not when all is loaded, and with
        the server's settings that wait for a restart.
        """
        async with self._adopting:  # whichever came last holds
            before = self._crew.settings
            waiting = late(before, manifest.server)
            if waiting:
                logger.warning("%s of [server] changed: that waits for a restart", ", ".join(waiting))
            settings = in_effect(before, manifest.server)
            if settings.stall_s != before.stall_s:
                self._reader_stall_s = settings.stall_s
                if self._outbox is not None:
                    self._outbox.stall_s = settings.stall_s
            await bounded(self._crew, settings)
            stamps = await replaced(self._crew, manifest.models)
            self._crew.residency.try_again(self._crew.now())
            self._plain.clear()  # only now: somebody may have loaded one by hand meanwhile
            self._adopt(manifest.models, stamps)
            return waiting

    def _adopt(self, specs: Sequence[ModelSpec], stamps: Mapping[str, object] = NO_STAMPS) -> None:
        effects = self._crew.residency.adopt(
            specs,
            self._crew.now(),
            max_loaded=self._crew.settings.max_loaded,
            may_page=_may_page(specs, self._crew.hardware),
            stamps=stamps,
        )
        self._crew.list_places()
        self._crew.do(effects)
        for place in self._crew.places.values():
            for running in place.ready():
                self._crew.fit(place, running)

    def lose(self, pci_id: str, reason: str) -> None:
        """A card is broken; also before it is known which device that is."""
        devices = self.devices()
        if not devices:
            self._broken[pci_id] = reason
        for device in devices:
            if is_same_card(device.pci_id, pci_id):
                self.quarantine(device.id, reason)

    def quarantine(self, device_id: str, reason: str) -> None:
        """A device is lost: streams on it end with an error, and nothing is put there any more.

        What is there is left there: to free it is to ask a driver that fails, and over that ggml ends the process.
        """
        self._crew.hardware.forsake(device_id)
        for place in self._crew.places.values():
            for running in place.running.values():
                if device_id in running.record.placement.devices:
                    running.replica.forsake()
                    running.replica.refuse(Unavailable(f"`{place.spec.name}` lost its device {device_id}: {reason}"))
        for running in self._crew.leaving.values():
            if device_id in running.record.placement.devices:
                running.replica.forsake()
        self._crew.do(self._crew.residency.quarantine(device_id, reason, self._crew.now()))

    def devices(self) -> tuple[Device, ...]:
        """Where models can be put; nothing before they are known."""
        return self._crew.residency.devices

    # --- told ---

    def seen(self) -> Sequence[Place]:
        """All of them to look at and not to keep, as they are: nothing is made of it."""
        return self._crew.served

    def seen_of(self, names: Iterable[str]) -> Sequence[Place]:
        """Of these models, those that there are."""
        known = self._crew.names
        return [known[name] for name in names if name in known]

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every model as it stands now, in the manifest's order."""
        now = self._crew.now()
        stalled: dict[str, bool] = {}

        def is_stalled(device: str) -> bool:
            if device not in stalled:
                stalled[device] = self._crew.loading is not None and self._crew.loading.is_stalled(device)
            return stalled[device]

        return tuple(place.status(now, is_stalled) for place in self._crew.served)

    def watch(self) -> Watch:
        """Whether a step does not return. Never waits for it."""
        if self._crew.loading is None:
            return Watch(is_stalled=False, busy_for_s=0.0, n_steps=0)
        return self._crew.loading.watch()

    def listen(self, callback: Callable[[FleetEvent], None]) -> Callable[[], None]:
        """Have every event told on the loop from now on; returns what ends that. The callback returns at once."""
        return self._crew.telling.listen(callback)
