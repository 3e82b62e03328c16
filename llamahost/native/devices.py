"""What ggml can compute on: its back ends' devices and their memory, and what its build knows. Opens no model."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from llamahost.core.errors import LoadFailed
from llamahost.native.library import library

_KINDS = ("CPU", "GPU", "integrated GPU", "accelerator", "several")
"""By ggml_backend_dev_type."""
_OFFLOADED = (1, 2)

_FOR_GPUS = frozenset({"CUDA", "ROCm", "MUSA", "MTL", "Vulkan", "SYCL", "OpenCL", "WebGPU", "CANN"})
"""Back ends by ggml's names, those that are built for GPUs. One is there also where it found none."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device; bytes are 0 where the back end does not tell."""

    name: str
    description: str
    kind: str
    back_end: str
    free_bytes: int
    total_bytes: int
    pci_id: str = ""  # such as 0000:c1:00.0, where the back end tells


class _Props(ctypes.Structure):
    """ggml_backend_dev_props, of which the capabilities are not read: room is left for more of them."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", ctypes.c_char * 64),
    )


def devices(*, without: Collection[str] = ()) -> tuple[Device, ...]:
    """Every device that a model could be put on, the CPU among them; those `without` are not asked for anything."""
    ggml = _ggml()
    description = _bound(ggml, "ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = _bound(ggml, "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    memory = _bound(ggml, "ggml_backend_dev_memory", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    registry = _bound(ggml, "ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)
    props = _bound(ggml, "ggml_backend_dev_get_props", None, ctypes.c_void_p, ctypes.c_void_p)
    registry_name = _bound(ggml, "ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    found: list[Device] = []
    for name, device in _all(ggml):
        if name in without:
            continue
        free, total, told = ctypes.c_size_t(), ctypes.c_size_t(), _Props()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        props(device, ctypes.byref(told))
        number = kind(device)
        found.append(
            Device(
                name=name,
                description=_text(description(device)).strip(),
                kind=_KINDS[number] if 0 <= number < len(_KINDS) else f"kind {number}",
                back_end=_text(registry_name(registry(device))),
                free_bytes=free.value,
                total_bytes=total.value,
                pci_id=_text(told.device_id),
            )
        )
    return tuple(found)


def free_of(names: Collection[str]) -> dict[str, int]:
    """What is free of each of these that tells. No other is asked: a question brings a CUDA context up on a card."""
    ggml = _ggml()
    memory = _bound(ggml, "ggml_backend_dev_memory", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    wanted = {each.lower() for each in names}
    found: dict[str, int] = {}
    for name, device in _all(ggml):
        if name.lower() in wanted:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            memory(device, ctypes.byref(free), ctypes.byref(total))
            if total.value:
                found[name] = free.value
    return found


def handles() -> dict[str, int]:
    """C's devices by their names, those alone that weights are offloaded to."""
    ggml = _ggml()
    kind = _bound(ggml, "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    return {name: device for name, device in _all(ggml) if kind(device) in _OFFLOADED}


def buffer_type(place: str) -> int:
    """C's buffers on the CPU or on a device, by name. Raises LoadFailed."""
    ggml = _ggml()
    if place.upper() == "CPU":
        return int(_bound(ggml, "ggml_backend_cpu_buffer_type", ctypes.c_void_p)())
    known = handles()
    device = next((pointer for name, pointer in known.items() if name.lower() == place.lower()), None)
    if device is None:
        raise LoadFailed(f"there is no device `{place}`; tensors can go to {', '.join(('CPU', *known))}")
    return int(_bound(ggml, "ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)(device))


def trouble() -> str:
    """Why a build made for GPUs has none; empty where the build is for the CPU."""
    return trouble_of(_back_ends(), library().complaints)


def trouble_of(back_ends: Collection[str], complaints: Sequence[str]) -> str:
    """By the names of the back ends, and by what they complained of as they came up. Pure."""
    if not _FOR_GPUS.intersection(back_ends):
        return ""
    told = "this build of llama.cpp is made for GPUs and finds none"
    return f"{told}: {'; '.join(complaints)}" if complaints else told


def _back_ends() -> tuple[str, ...]:
    """Those of the build, whether they found a device or not: `llama_supports_gpu_offload` asks for a device."""
    ggml = _ggml()
    count = _bound(ggml, "ggml_backend_reg_count", ctypes.c_size_t)
    get = _bound(ggml, "ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _bound(ggml, "ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    return tuple(_text(name(get(k))) for k in range(count()))


def _all(ggml: ctypes.CDLL) -> list[tuple[str, int]]:
    """C's devices with their names, which are asked of none of them: the back ends know."""
    count = _bound(ggml, "ggml_backend_dev_count", ctypes.c_size_t)
    get = _bound(ggml, "ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _bound(ggml, "ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    return [(_text(name(device)), device) for device in map(get, range(count()))]


def _ggml() -> ctypes.CDLL:
    """ggml's functions, as libllama has them: its handle finds what its own libraries bring. To open these by their
    paths loads them again where they lie as copies, not as links, as in a wheel: other devices, other pointers.
    """
    lib = library().c._lib
    return ctypes.CDLL(lib._name, handle=lib._handle)


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
