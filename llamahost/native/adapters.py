"""The LoRA adapters of one model: open them, set them on a context, free them. Knows no name, request or slot.

law: an id is given once in the life of the process
law: C's list of adapters is not read (when a context makes its graphs anew) while it changes
law: adapters are changed only where the device has memory to spare: what C cannot reserve then ends the process
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from llamahost.core.errors import BackendError, LoadFailed
from llamahost.core.machine import Machine
from llamahost.core.sizes import bytes_told
from llamahost.core.work import NO_ADAPTERS, Adapters
from llamahost.native.adapter_laws import read_adapter
from llamahost.native.devices import free_of
from llamahost.native.gguf import GgufHeader
from llamahost.native.library import Library, LogTap, buffers_in

MARGIN_BYTES = 32 * 2**20
"""And a quarter of the compute buffers: those of a graph with adapters are larger by two matrices of a micro-batch."""

LOOK_S = 0.25
"""To ask for the memory that is left may take as long as to change adapters; so it is asked for this often at most."""

_ids = itertools.count(1)


def free_bytes(devices: Collection[str]) -> int:
    """Memory that is left where graphs are computed: the least of these devices', or the process's if none tells."""
    free = free_of(devices)
    return min(free.values()) if free else Machine.read().available_bytes


def _mark_of(path: Path) -> object:
    """None where it is not there; opening it tells more."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


class LlamaAdapters:
    """`open` may be called in any thread; `changing`, `set` and `free` belong to the thread that owns the context."""

    def __init__(
        self,
        library: Library,
        model_pointer: int,
        header: GgufHeader,
        *,
        free_bytes: Callable[[], int],
        look_s: float = LOOK_S,
    ) -> None:
        self._library = library
        self._model: int | None = model_pointer
        self._header = header
        self._free_bytes = free_bytes
        self._look_s = look_s
        self._looked_at = -math.inf
        self._left = 0  # bytes, when they were looked at
        self._pointers: dict[int, Any] = {}
        self._taken: dict[int, Mapping[tuple[str, str], int]] = {}
        self._seen: dict[int, object] = {}  # by which the file is known that was read
        self.refusal = ""  # why none can be used on this model, where C ends the process over one
        self.is_forsaken = False  # the model's devices are broken: C is asked for nothing any more
        self.changing = threading.Lock()
        """Held while C's list changes, and by whoever decodes for the first time with others than before."""

    def open(self, path: Path) -> int:
        """Read the file onto the model's devices; its id. Raises LoadFailed."""
        path = path.resolve()
        if self.refusal:
            raise LoadFailed(f"{path} cannot be used as an adapter: {self.refusal}")
        seen = _mark_of(path)
        n_bytes = read_adapter(path, self._header).n_bytes
        with self.changing, LogTap() as lines:
            if self._model is None or self.is_forsaken:  # before its devices are asked for what is free
                raise LoadFailed(f"{path} comes too late: the model is closed")
            if self._free_bytes() < n_bytes + MARGIN_BYTES:
                raise LoadFailed(f"{path} takes {bytes_told(n_bytes)}, and there is no room for it")
            pointer = self._library.c.llama_adapter_lora_init(self._model, os.fsencode(path))
            if not pointer:  # ctypes gives a falsy object for NULL, never None
                reason = next(
                    (line.split("adapter:", 1)[-1].strip() for line in lines if "failed" in line), "no reason"
                )
                raise LoadFailed(f"{path} cannot be used as an adapter: {reason}")
            id_ = next(_ids)
            self._pointers[id_] = pointer
            self._taken[id_], self._seen[id_] = buffers_in(lines), seen
        return id_

    def is_as_opened(self, id_: int, path: Path) -> bool:
        """Whether the file there is still the one that was opened, or is gone. In any thread."""
        return _mark_of(path) in (None, self._seen.get(id_))

    @property
    def taken(self) -> Mapping[str, int]:
        """Bytes of those that are open now, by llama.cpp's name of the device. May be asked in any thread."""
        found: dict[str, int] = {}
        for buffers in tuple(self._taken.values()):
            for (device, _), n_bytes in buffers.items():
                found[device] = found.get(device, 0) + n_bytes
        return found

    def set(self, context_pointer: int, adapters: Adapters, *, n_compute_bytes: int) -> None:
        """Have the context compute with these from now on. Raises BackendError where that may not be."""
        wanted = MARGIN_BYTES + n_compute_bytes // 4
        now = time.monotonic()
        if now - self._looked_at >= self._look_s:
            self._left, self._looked_at = self._free_bytes(), now
        if self._left < wanted:
            raise BackendError(
                f"adapters cannot be changed: {bytes_told(self._left)} of memory are left, and to make the graphs anew "
                f"may take {bytes_told(wanted)}"
            )
        try:
            pointers = [self._pointers[id_] for id_, _ in adapters]
        except KeyError as error:
            raise BackendError(f"adapter {error} is gone") from error
        if adapters == NO_ADAPTERS:
            self.unset(context_pointer)
            return
        kind = type(pointers[0])
        scales = (ctypes.c_float * len(adapters))(*[scale for _, scale in adapters])
        set_adapters = self._library.c.llama_set_adapters_lora
        set_adapters(context_pointer, (kind * len(pointers))(*pointers), len(pointers), scales)

    def unset(self, context_pointer: int) -> None:
        """Have the context compute with none; before one that it has is freed."""
        self._library.c.llama_set_adapters_lora(context_pointer, None, 0, None)

    def free(self, id_: int) -> None:
        """Let go of its memory; no context may have it set. Idempotent."""
        with self.changing:
            pointer = self._pointers.pop(id_, None)
            self._taken.pop(id_, None)
            self._seen.pop(id_, None)
            if pointer is not None and self._model is not None and not self.is_forsaken:
                self._library.c.llama_adapter_lora_free(pointer)

    def close(self) -> None:
        """The model is about to be freed, and C frees its adapters with it."""
        with self.changing:
            self._pointers.clear()
            self._taken.clear()
            self._model = None
