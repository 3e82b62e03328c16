"""Open and close replicas in threads beside the loop, each on its device's worker. Decides nothing.

One worker thread a device, which several engines may share; a model over several devices lives on its first one's.
"""

from __future__ import annotations

import contextlib
import logging
import time
from asyncio import get_running_loop
from collections.abc import Callable, Mapping
from functools import partial

from llamahost.core.errors import LoadFailed, Unavailable
from llamahost.core.machine import Machine
from llamahost.core.threads import in_thread
from llamahost.engine.engine import Engine
from llamahost.engine.outbox import Outbox
from llamahost.engine.scheduler import Scheduler
from llamahost.engine.worker import Watch, Worker
from llamahost.fleet.machine.devices import Device, Devices
from llamahost.fleet.machine.footprint import FileFacts
from llamahost.fleet.replica.opened import Opened
from llamahost.fleet.replica.replica import Replica
from llamahost.fleet.replica.vectors import Vectors
from llamahost.fleet.request.lanes import Lanes
from llamahost.fleet.settings.manifest import ModelSpec

logger = logging.getLogger("llamahost.fleet")

Load = Callable[[ModelSpec, Machine, Callable[[float], None]], Opened]
"""Opens a model, blocking, in a thread; tells its progress in [0, 1]. Raises LoadFailed."""

Facts = Callable[[ModelSpec], FileFacts]
"""Where a model's file lies and what its header says, blocking. Raises LoadFailed."""


class Loading:
    """Owned by the loop that starts it."""

    def __init__(self, load: Load, facts: Facts | None, *, reader_stall_s: float) -> None:
        self._load = load
        self._facts = facts
        self._outbox = Outbox(get_running_loop(), stall_s=reader_stall_s)
        self._lanes = Lanes(Machine.read().n_threads)
        self._workers: dict[str, Worker] = {}
        self.is_closed = False

    @property
    def outbox(self) -> Outbox:
        return self._outbox

    async def devices(self, devices: Devices) -> tuple[tuple[Device, ...], Mapping[str, int]]:
        """All of them, and what is free of each that tells."""
        if not devices.blocks:
            return devices.all(), devices.free_bytes()
        return await in_thread("devices", lambda: (devices.all(), devices.free_bytes()))

    async def look(self, spec: ModelSpec) -> FileFacts:
        """What its file says of itself. Raises LlamahostError."""
        facts = self._facts
        if facts is None:
            return FileFacts()
        return await in_thread(f"look-{spec.name}", lambda: facts(spec))

    async def open(self, replica_id: str, spec: ModelSpec, on_progress: Callable[[float], None]) -> Opened | None:
        """None where the fleet was closed meanwhile. Raises LlamahostError."""

        def progress(fraction: float) -> None:
            if self.is_closed:
                raise Unavailable("the server is shutting down")  # ends the load
            on_progress(fraction)

        def work() -> Opened | None:
            try:
                opened = self._load(spec, Machine.read(), progress)
            except OSError as error:  # of a file that went meanwhile, or a disk that fails
                raise LoadFailed(f"{error.filename or spec.path}: {error.strerror or error}") from error
            if not self.is_closed:
                return opened
            _discard(opened)  # nobody waits for it any more
            return None

        return await in_thread(f"load-{replica_id}", work)

    async def discard(self, opened: Opened) -> None:
        """Close what no worker has."""
        await in_thread("discard", lambda: _discard(opened))

    def replica(self, opened: Opened, devices: tuple[str, ...], on_lost: Callable[[str], None]) -> Replica:
        """The model with its engines on the worker of its first device."""
        worker = self._worker(devices[0], opened)
        backend, embedder, target_step_s = opened.backend, opened.embedder, opened.spec.target_step_s
        engine: Engine | None = None
        if backend is not None:
            scheduler = Scheduler.for_backend(backend, target_step_s=target_step_s)
            engine = Engine(backend, scheduler, self._outbox.publish, on_lost=on_lost)
        vectors: Vectors | None = None
        if embedder is not None:
            vectors = Vectors(embedder, worker, target_step_s=target_step_s, on_lost=on_lost)
        return Replica(opened, engine, vectors, worker, self._outbox, self._lanes)

    def watch(self, device_id: str | None = None) -> Watch:
        """Whether a step does not return, on one device or on any. Never waits for it."""
        now = time.monotonic()
        workers = self._workers.values() if device_id is None else [self._workers[device_id]]
        seen = [worker.watch(now) for worker in workers if worker is not None]
        return Watch(
            is_stalled=any(each.is_stalled for each in seen),
            busy_for_s=max((each.busy_for_s for each in seen), default=0.0),
            n_steps=sum(each.n_steps for each in seen),
        )

    def is_stalled(self, device_id: str) -> bool:
        """The same of one device, for each request to ask."""
        worker = self._workers.get(device_id)
        return worker is not None and worker.watch(time.monotonic()).is_stalled

    async def close(self, patience_s: float) -> None:
        """End the threads; every replica is closed by now, or hangs."""
        for device, worker in self._workers.items():
            if not await in_thread("close", partial(worker.close, patience_s)):
                logger.error("a step did not return on %s; its thread is left behind", device)
        await in_thread("close", self._lanes.close)  # idle by now, unless a replica hangs

    def _worker(self, device: str, opened: Opened) -> Worker:
        worker = self._workers.get(device)
        if worker is None:
            overlaps = any(each is not None and each.overlaps for each in (opened.backend, opened.embedder))
            worker = self._workers[device] = Worker(f"gpu-{device}" if overlaps else device)
            worker.start()
        return worker


def _discard(opened: Opened) -> None:
    for context in (opened.backend, opened.embedder):
        if context is not None:
            context.close()
    with contextlib.suppress(OSError):
        opened.model.close()
