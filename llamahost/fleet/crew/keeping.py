"""Keep what slots hold when their model is unloaded, and find it again when it comes back: in memory, then in files.

Owned by the loop. What fits together, the key says: the file, the shape, the settings and the library.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Hashable

from llamahost.core.machine import Machine
from llamahost.core.threads import in_thread
from llamahost.core.work import KeptSlot
from llamahost.fleet.crew.kept import Kept, KeptPrefixes
from llamahost.fleet.crew.kept_files import PrefixFiles
from llamahost.fleet.crew.place import Running
from llamahost.fleet.memory.residents import Replica
from llamahost.fleet.settings.manifest import ModelSpec, ServerSettings

logger = logging.getLogger("llamahost.fleet")


def _free_bytes() -> int:
    return Machine.read().available_bytes


class Keeping:
    """`files` None: nothing outlives the process. Whatever the budgets, all passes through this machine's memory, of
    which no more than a third of what is free is taken: there are two of each state for a moment.
    """

    def __init__(self, files: PrefixFiles | None, free_bytes: Callable[[], int] = _free_bytes) -> None:
        self._kept = KeptPrefixes()
        self._files = files
        self._free_bytes = free_bytes

    async def keep(self, running: Running, settings: ServerSettings, n_replicas: int = 1) -> None:
        """What its slots hold, now that nobody uses it. Never raises: it is computed again, that is all.

        `n_replicas` are as many as its model is to have.
        """
        n_most = max(settings.prefix_bytes, settings.prefix_disk_bytes if self._files is not None else 0)
        try:
            n_most = min(n_most, await in_thread("memory", self._free_bytes) // 3)
            slots = await running.replica.keep(n_most)
        except Exception as error:
            logger.warning("%s: its prefixes could not be kept: %s", running.record.id, error)
            return
        key = key_of(running.record, running.replica.spec)
        gone = self._kept.put(Kept(key, running.record.id, slots, n_replicas), settings.prefix_bytes)
        await self._write(gone, settings)

    def take(self, record: Replica, spec: ModelSpec, read: tuple[KeptSlot, ...]) -> tuple[KeptSlot, ...]:
        """What is in memory for it, or was `read`; what is another's waits for that one, where there is its own."""
        key = key_of(record, spec)
        return self._kept.take(key, record.id, is_own=True) or read or self._kept.take(key, record.id)

    async def read(self, record: Replica, spec: ModelSpec, settings: ServerSettings) -> tuple[KeptSlot, ...]:
        """What is in a file for it; asked for before it is loaded. Another's only where memory has none that fits."""
        files = self._files
        if files is None or settings.prefix_disk_bytes <= 0 or not spec.keep_prefixes or record.seen is None:
            return ()
        key = key_of(record, spec)
        is_own = self._kept.has(key)
        return await in_thread("prefixes", lambda: files.get(key, record.id, self._free_bytes() // 3, is_own=is_own))

    async def fit(self, settings: ServerSettings) -> None:
        """Other budgets. With none for files, those that there are stay: another process may go by them."""
        await self._write(self._kept.fit(settings.prefix_bytes), settings)
        files, n_most = self._files, settings.prefix_disk_bytes
        if files is not None and n_most > 0:
            await in_thread("prefixes", lambda: files.trim(n_most))

    async def flush(self, settings: ServerSettings) -> None:
        """Write what is in memory, for the next process."""
        if settings.prefix_disk_bytes > 0:
            await self._write(self._kept.take_all(), settings)

    async def _write(self, kept: list[Kept], settings: ServerSettings) -> None:
        files, n_most = self._files, settings.prefix_disk_bytes
        if files is None or n_most <= 0 or not kept:
            return

        def work() -> None:
            for each in kept:
                files.put(each, n_most)

        await in_thread("prefixes", work)


def key_of(record: Replica, spec: ModelSpec) -> Hashable:
    """What a kept state fits into: the same file, in a context of the same shape, as it was loaded."""
    kinds = spec.kv_type_k, spec.kv_type_v, spec.flash_attention, spec.swa_full
    version = importlib.metadata.version("llama-cpp-python")
    return record.seen, record.placement.shape, kinds, _rope(spec), version


def _rope(spec: ModelSpec) -> Hashable:
    return tuple(getattr(spec, name) for name in ModelSpec.__slots__ if name.startswith(("rope_", "yarn_")))
