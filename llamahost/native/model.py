"""Open a GGUF file. Knows its facts and its vocabulary; knows no context, slot or request."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llamahost.core.errors import LoadFailed
from llamahost.native.adapters import LlamaAdapters, free_bytes
from llamahost.native.constraint import Grammars
from llamahost.native.devices import handles
from llamahost.native.gguf import GgufHeader, read_metadata
from llamahost.native.library import Library, LogTap, buffers_in, library
from llamahost.native.offload import ModelOptions, fill
from llamahost.native.vocab import Vocab

_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))

_NO_ROWS = ', which split_mode = "row" needs; "layer" and "tensor" do without'
_MODEL_BUFFER = re.compile(r"(\S+) model buffer size\s*=\s*([\d.]+) MiB")


class Model:
    """Weights and vocabulary, shared by any number of contexts; whoever opened it closes it, contexts first."""

    def __init__(
        self, loaded: Library, pointer: int, path: Path, header: GgufHeader, *, devices: Collection[str] = ()
    ) -> None:
        c = loaded.c
        self.library = loaded
        self.header = header
        self.path = path
        self._pointer: int | None = pointer
        self._lock = threading.Lock()
        self.metadata: Mapping[str, str] = _metadata(c, pointer)
        self.name = self.metadata.get("general.name") or path.stem
        self.architecture = header.architecture
        self.n_ctx_train: int = c.llama_model_n_ctx_train(pointer)
        self.n_params: int = c.llama_model_n_params(pointer)
        told = _text(lambda buffer, room: c.llama_model_desc(pointer, buffer, room))
        self.description = described(told, self.n_params)
        self.n_bytes: int = c.llama_model_size(pointer)
        self.n_layer: int = c.llama_model_n_layer(pointer)
        self.n_embd: int = c.llama_model_n_embd(pointer)
        self.n_embd_out: int = c.llama_model_n_embd_out(pointer)
        self.n_scores: int = c.llama_model_n_cls_out(pointer)
        self.is_causal = header.is_causal
        self.n_positions = self.n_ctx_train if header.has_positions else 0
        """Where its table of positions ends, beyond which C ends the process; 0 where there is none."""
        self.n_swa: int = c.llama_model_n_swa(pointer)
        self.is_recurrent = bool(c.llama_model_is_recurrent(pointer))
        self.has_encoder = bool(c.llama_model_has_encoder(pointer))
        self.has_decoder = bool(c.llama_model_has_decoder(pointer))
        self.vocab = Vocab(loaded, c.llama_model_get_vocab(pointer))
        self.grammars = Grammars(loaded, self.vocab)
        self.is_on_device = bool(devices)
        self.is_forsaken = False
        self.is_split_by_tensor = False
        self.adapters = LlamaAdapters(loaded, pointer, header, free_bytes=lambda: free_bytes(devices))

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        header: GgufHeader | None = None,
        options: ModelOptions | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Model:
        """Load the file, whose `header` need not be read again; `on_progress` hears fractions from this thread.

        Raises LoadFailed.
        """
        header = header or read_metadata(path)
        if not header.architecture:
            raise LoadFailed(f"{path} names no architecture (general.architecture)")
        loaded = library()
        c = loaded.c
        params = c.llama_model_default_params()
        options = options or ModelOptions()
        kept = fill(params, options, loaded)
        if loaded.has_broken_amx:
            params.use_extra_bufts = False  # AMX buffers are among them, and cannot be refused alone
        failures: list[BaseException] = []

        def progress(fraction: float, _data: object) -> bool:
            if on_progress is None:
                return True
            try:
                on_progress(fraction)
            except BaseException as error:  # through C it would be lost; the load stops and it is raised below
                failures.append(error)
                return False
            return True

        callback = c.llama_progress_callback(progress)  # a local: alive until the loader has returned
        params.progress_callback = callback
        with LogTap() as lines:
            pointer = c.llama_model_load_from_file(os.fsencode(path), params)
        kept.clear()
        if failures:
            if pointer:
                c.llama_model_free(pointer)
            raise failures[0]
        if not pointer:
            raise LoadFailed(f"cannot load {path}: {_reason(lines)}")
        is_on_device = loaded.has_gpu and params.n_gpu_layers != 0
        model = cls(loaded, pointer, path, header, devices=(options.devices or handles()) if is_on_device else ())
        model.is_split_by_tensor = is_on_device and options.split_mode == "tensor"
        if model.is_split_by_tensor:
            model.adapters.refusal = 'there are none with split_mode = "tensor"'
        model.load_log = tuple(line for line in lines if "buffer size" in line)
        if not model.has_decoder:
            model.close()
            raise LoadFailed(f"{path} ({model.architecture}) has no decoder, so it cannot generate text")
        return model

    load_log: tuple[str, ...] = ()

    @property
    def weights(self) -> Mapping[str, int]:
        """Bytes of weights by the buffers that they lie in, such as CUDA0, CPU_Mapped or CPU_REPACK."""
        found = buffers_in(self.load_log)
        return {device: n_bytes for (device, what), n_bytes in found.items() if what == "model"}

    @property
    def n_bytes_copied(self) -> int:
        """Bytes of weights in host memory of the process's own (repacked, pinned), which no reclaiming of the file's
        pages gives back.
        """
        found = (match for line in self.load_log if "buffer size" in line and (match := _MODEL_BUFFER.search(line)))
        return sum(
            int(float(mib) * 2**20)
            for name, mib in (match.groups() for match in found)
            if (name.startswith("CPU") or name.endswith("_Host")) and not name.endswith("_Mapped")
        )

    @property
    def pointer(self) -> int:
        """The C model. Raises LoadFailed once it is closed, which is kinder than what C would do."""
        if self._pointer is None:
            raise LoadFailed(f"{self.path} is closed")
        return self._pointer

    def chat_template(self, name: str = "") -> str | None:
        """The Jinja source in the file, the default one or the one of that name (such as `tool_use`)."""
        found = self.library.c.llama_model_chat_template(self.pointer, name.encode() if name else None)
        return found.decode("utf-8", "replace") if found else None

    def check_positions(self, n_ctx: int) -> None:
        """Raises LoadFailed where a sequence of that length would leave the table of positions."""
        if 0 < self.n_positions < n_ctx:
            raise LoadFailed(f"{self.path.name} has {self.n_positions} positions; n_ctx {n_ctx} is above that")

    def forsake(self) -> None:
        """A card of it is broken: nothing of it asks C for anything from now on, not even to free it, since ggml ends
        the process over whatever CUDA refuses. What it has in memory, it has until the process ends. Any thread.
        """
        self.is_forsaken = self.adapters.is_forsaken = True

    def close(self) -> None:
        """Free the weights. Idempotent; a double free would end the process."""
        with self._lock:
            pointer, self._pointer = self._pointer, None
        if pointer is not None:
            self.grammars.close()  # they tokenise with the vocabulary
            self.adapters.close()
            if not self.is_forsaken:
                self.library.c.llama_model_free(pointer)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def described(told: str, n_params: int) -> str:
    """llama.cpp's words for a file, with the count of its parameters where it guesses a size by its layers."""
    architecture, _, rest = told.partition(" ")
    size, unit = next(((size, unit) for size, unit in _UNITS if n_params >= 0.9995 * size), (1, ""))
    return " ".join((architecture, f"{n_params / size:.3g}{unit}", rest.partition(" ")[2])).strip()


def _text(fill: Callable[[Any, int], int]) -> str:
    """A string from a C function that returns the length it would need."""
    room = 512
    for _ in range(2):
        buffer = ctypes.create_string_buffer(room)
        n = fill(buffer, room)
        if n < room:
            return buffer.raw[: max(n, 0)].decode("utf-8", "replace")
        room = n + 1
    return ""


def _metadata(c: Any, pointer: int) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for index in range(c.llama_model_meta_count(pointer)):
        key = _text(partial(c.llama_model_meta_key_by_index, pointer, index))
        found[key] = _text(partial(c.llama_model_meta_val_str_by_index, pointer, index))
    return found


def _reason(lines: list[str]) -> str:
    """What the loader complained of; it logs the cause and then that it failed."""
    for line in lines:
        if "error loading model" in line:
            told = line.split("error loading model", 1)[1].lstrip(": ").strip() or line
            return f"{told}{_NO_ROWS}" if "split buffers" in told else told
    return next(
        (line for line in reversed(lines) if "error" in line.lower() or "fail" in line.lower()), "no reason given"
    )
