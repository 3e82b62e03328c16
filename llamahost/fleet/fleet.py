"""Which model runs, and who may use it now: loads, leases, refusals, unloads. One replica a model, for now.

State has one writer, the loop: threads that load tell it what they did. A lease holds its model in memory; unloading
waits for the leases, takes the engine off its worker, and only then closes the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llamahost.core.errors import LlamahostError, LoadFailed, ModelNotFound, Overloaded, Unavailable
from llamahost.core.machine import Machine
from llamahost.engine.engine import Engine, EngineStats
from llamahost.engine.outbox import Outbox
from llamahost.engine.scheduler import Scheduler
from llamahost.engine.worker import Watch, Worker
from llamahost.fleet.lanes import Lanes
from llamahost.fleet.policy import ReplicaView, choose
from llamahost.fleet.replica import Opened, Replica, in_thread
from llamahost.fleet.vectors import Vectors

if TYPE_CHECKING:  # the loader brings llama_cpp, which a process that only starts up need not wait for
    from llamahost.fleet.loader import ModelCard
    from llamahost.fleet.manifest import ModelSpec

logger = logging.getLogger("llamahost.fleet")

State = Literal["unloaded", "loading", "ready", "failed", "draining"]
Load = Callable[["ModelSpec", Machine, Callable[[float], None]], Opened]
"""Opens a model, blocking, in a thread; tells its progress in [0, 1]. Raises LoadFailed."""

RELOAD_DELAY_S = 1.0
RELOAD_PEACE_S = 60.0
"""A lost engine is loaded again after RELOAD_DELAY_S, unless it had been ready for less than RELOAD_PEACE_S."""
LOAD_PATIENCE_S = 5.0
"""How long closing waits for a load that runs: it cannot be stopped, but need not be waited for either."""
LEASE_PATIENCE_S = 0.5
"""How long closing waits for leases whose streams it has ended: their holders may be waiting for a client."""
CLOSE_PATIENCE_S = 5.0
"""How long closing waits for a step that does not return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A model as it stands now. `progress` in [0, 1] while loading; `reason` says why it failed.

    `card` and `stats` are there once it has been loaded; `n_in_flight` counts answers being made or waited for.
    """

    name: str
    aliases: tuple[str, ...] = ()
    state: State = "unloaded"
    progress: float = 0.0
    reason: str = ""
    n_slots: int = 0
    n_in_flight: int = 0
    card: ModelCard | None = None
    stats: EngineStats | None = None
    is_stalled: bool = False


class _Place:
    """What the fleet knows of one model of the manifest. Owned by the loop, but for `progress`."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.state: State = "unloaded"
        self.progress = 0.0  # written by the thread that loads, read by the loop
        self.reason = ""
        self.replica: Replica | None = None
        self.ready_at = -math.inf
        self.n_mends = 0  # since it was last at peace
        self.n_leases = 0
        self.n_in_flight = 0
        self.mean_s = 0.0  # of a lease's life, a moving average
        self.idle = asyncio.Event()  # set while nobody holds a lease
        self.idle.set()
        self.settled = asyncio.Event()  # set while ready or failed

    @property
    def n_room(self) -> int:
        return self.replica.card.n_slots + self.spec.max_queue - self.n_in_flight if self.replica else 0

    def settle(self, state: State, reason: str = "") -> None:
        self.state = state
        self.reason = reason
        self.settled.set()

    def retry_after_s(self) -> float:
        """When half of those that wait will have been answered, at the rate of late. Whole seconds in [1, 60]."""
        n_slots = self.replica.card.n_slots if self.replica else 1
        n_waiting = max(1, self.n_in_flight - n_slots)
        return min(60.0, max(1.0, math.ceil(self.mean_s * n_waiting / 2 / n_slots)))


class Fleet:
    """Owned by the loop that starts it. One model answers to any name unless `is_strict`; several want theirs."""

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        load: Load,
        *,
        is_strict: bool = False,
        reader_stall_s: float = 60.0,
        reload_delay_s: float = RELOAD_DELAY_S,
    ) -> None:
        self._places = {spec.name: _Place(spec) for spec in specs}
        self._names = {
            name: place for place in self._places.values() for name in (place.spec.name, *place.spec.aliases)
        }
        self._load = load
        self._is_strict = is_strict
        self._reader_stall_s = reader_stall_s
        self._reload_delay_s = reload_delay_s
        self._worker: Worker | None = None
        self._outbox: Outbox | None = None
        self._lanes: Lanes | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._is_closed = False

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def start(self) -> None:
        """Begin to load every model, and return at once."""
        self._outbox = Outbox(asyncio.get_running_loop(), stall_s=self._reader_stall_s)
        self._lanes = Lanes(Machine.read().n_threads)
        for place in self._places.values():
            self._spawn(self._bring_up(place))

    async def wait_ready(self) -> None:
        """Wait until every model is ready. Raises LoadFailed with the first reason."""
        for place in self._places.values():
            await place.settled.wait()
            if place.state == "failed":
                raise LoadFailed(place.reason)

    @asynccontextmanager
    async def lease(self, name: str, n_jobs: int = 1) -> AsyncIterator[Replica]:
        """A replica of the model, kept in memory until the lease ends.

        `n_jobs` answers count against its queue; with 0 the lease is for the vocabulary alone and never Overloaded.
        Raises ModelNotFound, Unavailable, Overloaded.
        """
        place = self._find(name)
        replica = self._admit(place, n_jobs)
        place.n_leases += 1
        place.n_in_flight += n_jobs
        place.idle.clear()
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            yield replica
        finally:
            place.n_leases -= 1
            place.n_in_flight -= n_jobs
            if n_jobs:
                life_s = clock() - began
                place.mean_s = life_s if place.mean_s == 0.0 else 0.9 * place.mean_s + 0.1 * life_s
            if place.n_leases == 0:
                place.idle.set()

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every model as it stands now, in the manifest's order."""
        is_stalled = self.watch().is_stalled
        return tuple(
            ModelStatus(
                name=place.spec.name,
                aliases=place.spec.aliases,
                state=place.state,
                progress=1.0 if place.state == "ready" else place.progress,
                reason=place.reason,
                n_slots=place.replica.card.n_slots if place.replica else 0,
                n_in_flight=place.n_in_flight,
                card=place.replica.card if place.replica else None,
                stats=place.replica.stats if place.replica else None,
                is_stalled=is_stalled,
            )
            for place in self._places.values()
        )

    def watch(self) -> Watch:
        """Whether a step does not return. Never waits for it."""
        return (
            self._worker.watch(time.monotonic()) if self._worker else Watch(is_stalled=False, busy_for_s=0.0, n_steps=0)
        )

    def drain(self) -> None:
        """Grant no lease from now on. Idempotent."""
        self._is_draining = True

    async def close(self, drain_s: float = 0.0) -> None:
        """Drain for `drain_s`, end the streams that are left with Unavailable, unload all, end the threads."""
        self.drain()
        if self._is_closed:
            return
        self._is_closed = True
        places = tuple(self._places.values())
        if drain_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    for place in places:
                        await place.idle.wait()
        for place in places:
            if place.replica is not None:
                place.replica.refuse(Unavailable("the server is shutting down"))
        loads = tuple(self._tasks)
        if loads:
            await asyncio.wait(loads, timeout=LOAD_PATIENCE_S)
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_PATIENCE_S):
                for place in places:
                    await self._take_down(place, LEASE_PATIENCE_S)
        await self._end_threads()

    async def _end_threads(self) -> None:
        if self._worker is not None:
            worker = self._worker
            has_ended = await in_thread("close", lambda: worker.close(CLOSE_PATIENCE_S))
            if not has_ended:
                logger.error("a step did not return; its thread is left behind")
        if self._lanes is not None:
            self._lanes.close()  # idle by now: every replica has waited for its own

    def _find(self, name: str) -> _Place:
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

    def _admit(self, place: _Place, n_jobs: int) -> Replica:
        name = place.spec.name
        if self._is_draining:
            raise Unavailable("the server is shutting down")
        if place.replica is None or place.state != "ready":
            if place.state == "failed":
                raise Unavailable(f"`{name}` could not be loaded: {place.reason}", retry_after_s=60.0)
            raise Unavailable(f"`{name}` is still loading ({place.progress:.0%})", retry_after_s=2.0)
        n_room = place.n_room if n_jobs else 1
        if choose([ReplicaView(n_in_flight=place.n_in_flight, n_room=n_room)]) is None:
            raise Overloaded(
                f"`{name}` has {place.n_in_flight} requests in flight and its queue is full",
                retry_after_s=place.retry_after_s(),
            )
        return place.replica

    async def _bring_up(self, place: _Place) -> None:
        """Load; ready or failed in the end."""
        assert self._outbox is not None
        assert self._lanes is not None
        spec = place.spec
        place.state, place.reason, place.progress = "loading", "", 0.0
        place.settled.clear()

        def progress(fraction: float) -> None:
            if self._is_closed:
                raise Unavailable("the server is shutting down")  # ends the load
            place.progress = fraction

        def load() -> Opened | None:
            opened = self._load(spec, Machine.read(), progress)
            if not self._is_closed:
                return opened
            for context in (opened.backend, opened.embedder):  # nobody waits for it any more
                if context is not None:
                    context.close()
            opened.model.close()
            return None

        try:
            opened = await in_thread(f"load-{spec.name}", load)
        except LlamahostError as error:
            logger.error("%s", error)
            place.settle("failed", str(error))
            return
        except Exception as error:
            logger.exception("could not load %s", spec.name)
            place.settle("failed", f"{type(error).__name__}: {error}")
            return
        if opened is None:
            place.settle("unloaded")
            return
        loop = asyncio.get_running_loop()

        def on_lost(reason: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to mend it
                loop.call_soon_threadsafe(self._lost, place, reason)

        place.replica = self._replica(opened, on_lost)
        place.ready_at = loop.time()
        place.settle("ready")

    def _replica(self, opened: Opened, on_lost: Callable[[str], None]) -> Replica:
        """The model with its engines on the worker."""
        assert self._outbox is not None
        assert self._lanes is not None
        backend, embedder, target_step_s = opened.backend, opened.embedder, opened.spec.target_step_s
        if self._worker is None:
            overlaps = any(context is not None and context.overlaps for context in (backend, embedder))
            self._worker = Worker("gpu-0" if overlaps else "cpu")
            self._worker.start()
        engine: Engine | None = None
        if backend is not None:
            scheduler = Scheduler.for_backend(backend, target_step_s=target_step_s)
            engine = Engine(backend, scheduler, self._outbox.publish, on_lost=on_lost)
        vectors: Vectors | None = None
        if embedder is not None:
            vectors = Vectors(embedder, self._worker, target_step_s=target_step_s, on_lost=on_lost)
        return Replica(opened, engine, vectors, self._worker, self._outbox, self._lanes)

    def _lost(self, place: _Place, reason: str) -> None:
        """A backend is gone: its jobs have failed, what is needed now is a new one."""
        if place.state not in ("ready", "draining"):
            return  # it is known: a model may lose both its contexts, and is loaded anew once
        logger.error("`%s` is lost: %s", place.spec.name, reason)
        place.settle("failed", reason)
        if not self._is_closed:
            self._spawn(self._mend(place, reason))

    async def _mend(self, place: _Place, reason: str) -> None:
        if asyncio.get_running_loop().time() - place.ready_at > RELOAD_PEACE_S:
            place.n_mends = 0
        is_hopeless = place.n_mends >= 1
        if is_hopeless:
            place.settle("failed", f"{reason} (again, soon after it was loaded anew)")
        await self._take_down(place)
        if is_hopeless:
            return
        place.n_mends += 1
        await asyncio.sleep(self._reload_delay_s)
        if not self._is_closed:
            await self._bring_up(place)

    async def _take_down(self, place: _Place, patience_s: float | None = None) -> None:
        """Wait for the leases, but no longer than `patience_s`, then free everything."""
        if place.replica is None:
            return
        if place.state == "ready":
            place.state = "draining"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await place.idle.wait()
        replica, place.replica = place.replica, None
        if replica is not None:
            await replica.close()
        if place.state == "draining":
            place.settle("unloaded")

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
