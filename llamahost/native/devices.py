"""What ggml can compute on: its back ends' devices and their memory, and what its build knows. Opens no model."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamahost.native.library import library

_KINDS = ("CPU", "GPU", "integrated GPU", "accelerator", "several")
"""By ggml_backend_dev_type."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device; bytes are 0 where the back end does not tell."""

    name: str
    description: str
    kind: str
    back_end: str
    free_bytes: int
    total_bytes: int


def devices() -> tuple[Device, ...]:
    """Every device that a model could be put on, the CPU among them."""
    c = library().c
    folder = Path(c._lib._name).parent
    ggml = ctypes.CDLL(str(folder / "libggml.so"))  # already in the process: this only finds it again
    base = ctypes.CDLL(str(folder / "libggml-base.so"))
    count = _bound(ggml, "ggml_backend_dev_count", ctypes.c_size_t)
    get = _bound(ggml, "ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _bound(base, "ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    description = _bound(base, "ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = _bound(base, "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    memory = _bound(base, "ggml_backend_dev_memory", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    registry = _bound(base, "ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)
    registry_name = _bound(base, "ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    found: list[Device] = []
    for k in range(count()):
        device = get(k)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        number = kind(device)
        found.append(
            Device(
                name=_text(name(device)),
                description=_text(description(device)).strip(),
                kind=_KINDS[number] if 0 <= number < len(_KINDS) else f"kind {number}",
                back_end=_text(registry_name(registry(device))),
                free_bytes=free.value,
                total_bytes=total.value,
            )
        )
    return tuple(found)


def system_info() -> str:
    """What the build uses of the processor, as llama.cpp says it."""
    return _text(library().c.llama_print_system_info()).strip(" |")


def _bound(handle: ctypes.CDLL, name: str, restype: Any, *argtypes: Any) -> Any:
    function = handle[name]
    function.restype = restype
    function.argtypes = argtypes
    return function


def _text(text: bytes | None) -> str:
    return (text or b"").decode("utf-8", "replace")
