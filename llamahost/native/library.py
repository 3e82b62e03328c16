"""Open the C library, once and late. Knows its handle, its log and a few bindings of its own; knows no model.

Nothing is loaded until `library()` is called, so importing llamahost stays cheap. Two ways of calling:
`Library.c` is the package's module (ctypes CDLL: the GIL is dropped, right for what takes long or waits for a device);
the functions of `Library.quick` keep the GIL (PyDLL) and must be short: with a busy event loop a CDLL call of a
microsecond can take a whole switch interval to come back.
"""

from __future__ import annotations

import ctypes
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llamahost.core.errors import LoadFailed
from llamahost.native.amx import amx_is_broken

logger = logging.getLogger("llamahost.native")

_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.ERROR}
"""ggml_log_level to ours, quieter but for errors: its information is chatter, most of its warnings are normal."""

_CONTINUED = 5

TENSOR_TYPES = {
    "f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20,
}  # fmt: skip
"""ggml_type by the name that a manifest uses, those that a KV cache can have."""

_P, _I, _F, _U, _S, _B = (
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_float,
    ctypes.c_uint32,
    ctypes.c_size_t,
    ctypes.c_bool,
)

_QUICK: dict[str, tuple[Any, list[Any]]] = {
    "llama_vocab_get_attr": (ctypes.c_int, [_P, _I]),
    "llama_vocab_is_eog": (_B, [_P, _I]),
    "llama_token_to_piece": (_I, [_P, _I, _P, _I, _I, _B]),
    "llama_sampler_chain_add": (None, [_P, _P]),
    "llama_sampler_accept": (None, [_P, _I]),
    "llama_sampler_apply": (None, [_P, _P]),
    "llama_sampler_free": (None, [_P]),
    "llama_sampler_clone": (_P, [_P]),
    "llama_sampler_init_greedy": (_P, []),
    "llama_sampler_init_infill": (_P, [_P]),
    "llama_sampler_init_dist": (_P, [_U]),
    "llama_sampler_init_top_k": (_P, [_I]),
    "llama_sampler_init_top_p": (_P, [_F, _S]),
    "llama_sampler_init_min_p": (_P, [_F, _S]),
    "llama_sampler_init_typical": (_P, [_F, _S]),
    "llama_sampler_init_temp": (_P, [_F]),
    "llama_sampler_init_temp_ext": (_P, [_F, _F, _F]),
    "llama_sampler_init_xtc": (_P, [_F, _F, _S, _U]),
    "llama_sampler_init_top_n_sigma": (_P, [_F]),
    "llama_sampler_init_mirostat": (_P, [_I, _U, _F, _F, _I]),
    "llama_sampler_init_mirostat_v2": (_P, [_U, _F, _F]),
    "llama_sampler_init_penalties": (_P, [_I, _I, _F, _F, _F]),
    "llama_sampler_init_logit_bias": (_P, [_I, _I, _P]),
}
"""Short calls that never wait for a device. Pointers are plain addresses, so NULL is None and nothing else is."""

_LONG: dict[str, tuple[Any, list[Any]]] = {
    "llama_get_logits": (_P, [_P]),
    "llama_sampler_apply": (None, [_P, _P]),
    "llama_tokenize": (_I, [_P, ctypes.c_char_p, _I, _P, _I, _B, _B]),
    # walks the whole vocabulary once for each breaker
    "llama_sampler_init_dry": (_P, [_P, _F, _F, _I, _I, ctypes.POINTER(ctypes.c_char_p), _S]),
}


def _bind(loaded: ctypes.CDLL, table: dict[str, tuple[Any, list[Any]]]) -> SimpleNamespace:
    bound = SimpleNamespace()
    for name, (restype, argtypes) in table.items():
        function = loaded[name]  # by item: a function object of our own, with argtypes of our own
        function.restype = restype
        function.argtypes = argtypes
        setattr(bound, name.removeprefix("llama_"), function)
    return bound


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded library: `c` the package's bindings, `quick` and `long` ours by their names without `llama_`."""

    c: Any
    quick: Any
    long: Any
    version: str
    binding_version: str
    has_gpu: bool
    has_broken_amx: bool
    complaints: tuple[str, ...] = ()  # of the back ends, as they came up


class _Log:
    """Turns C log lines into Python records; thread-safe as far as `logging` is."""

    def __init__(self) -> None:
        self._level = logging.DEBUG
        self._taps: dict[int, list[str]] = {}

    def __call__(self, level: int, text: bytes | None, _data: object) -> None:
        # An exception here would be printed by ctypes and lost; nothing below can raise but a broken handler,
        # and logging catches those itself.
        if level != _CONTINUED:
            self._level = _LEVELS.get(level, logging.DEBUG)
        tap = self._taps.get(threading.get_ident())
        if tap is None and not logger.isEnabledFor(self._level):
            return
        line = (text or b"").decode("utf-8", "replace").rstrip("\n")
        if tap is not None:
            tap.append(line)
        if line and line.strip(". "):
            logger.log(self._level, "%s", line)

    def tap(self) -> list[str]:
        """From now on, also keep this thread's lines in the list that is returned."""
        return self._taps.setdefault(threading.get_ident(), [])

    def untap(self) -> None:
        self._taps.pop(threading.get_ident(), None)


class LogTap:
    """Context manager: the lines that the library logs in this thread meanwhile. What a failure says is only there."""

    def __enter__(self) -> list[str]:
        return _log.tap()

    def __exit__(self, *_: object) -> None:
        _log.untap()


_BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute|output|LoRA|DSV4 .*state) buffer size\s*=\s*([\d.]+) MiB")
_OF_A_BUFFER = " buffer size"  # few lines hold it: to search all of them took half the time of a small context
_SPLITS = re.compile(r"graph.*\bsplits = (\d+)(?: / (\d+))?")


def buffers_in(lines: Sequence[str]) -> dict[tuple[str, str], int]:
    """Bytes by device and by what for (model, kv, rs, compute, output, lora), as llama.cpp's log tells them."""
    found: dict[tuple[str, str], int] = {}
    for line in lines:
        if _OF_A_BUFFER in line and (match := _BUFFER.search(line)):
            key = match[1], "rs" if match[2].endswith("state") else match[2].lower()
            found[key] = found.get(key, 0) + int(float(match[3]) * 2**20)
    return found


def splits_in(lines: Sequence[str]) -> int:
    """Into how many pieces a graph is cut, each of which another device computes than the one before; 0: not told."""
    found = [match for line in lines if "splits = " in line and (match := _SPLITS.search(line))]
    return max((int(n) for n in found[-1].groups() if n), default=0) if found else 0


_log = _Log()
_lock = threading.Lock()
_library: Library | None = None
_kept_alive: list[object] = []
"""Callbacks that C may call at any time: collected, the next log line would be a segmentation fault."""


NO_DRIVER = "no NVIDIA driver is in reach, which this build needs; a container wants `--gpus all`"


def why_not_loaded(error: Exception) -> str:
    """What the import's failure says, in one line, with what to do where it is known."""
    told = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{told} ({NO_DRIVER})" if "libcuda.so" in told else told


def _load() -> Library:
    try:
        import llama_cpp  # costs a third of a second, so not at the top
        import llama_cpp.llama_cpp as c
    except (ImportError, OSError, RuntimeError) as error:  # no binding, or one whose libraries do not load
        raise LoadFailed(f"llama.cpp cannot be loaded: {why_not_loaded(error)}") from error

    callback = c.llama_log_callback(_log)
    _kept_alive.append(callback)
    c.llama_log_set(callback, ctypes.c_void_p(0))  # after the import, which sets one of its own
    with LogTap() as lines:
        c.llama_backend_init()
        has_gpu = bool(c.llama_supports_gpu_offload())  # brings the back ends up, which say here what fails
    name, handle = c._lib._name, c._lib._handle
    return Library(
        c=c,
        quick=_bind(ctypes.PyDLL(name, handle=handle), _QUICK),
        long=_bind(ctypes.CDLL(name, handle=handle), _LONG),
        version=(c.llama_version() or b"").decode() if hasattr(c, "llama_version") else "",
        binding_version=llama_cpp.__version__,
        has_gpu=has_gpu,
        complaints=tuple(line for line in lines if "fail" in line.lower() or "error" in line.lower()),
        has_broken_amx=amx_is_broken(
            (c.llama_print_system_info() or b"").decode("utf-8", "replace"), Path(name).with_name("libggml-cpu.so")
        ),
    )


def library() -> Library:
    """The library, loaded by whoever asks first. Raises LoadFailed."""
    global _library
    if _library is None:
        with _lock:
            if _library is None:
                _library = _load()
    return _library
