"""Where a model's tensors go: devices, shares, patterns, pages.

Fills C's parameters and keeps alive what they point at. Knows ggml's devices by their names; decides nothing. Defines
the struct that the binding leaves opaque.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llamahost.core.errors import LoadFailed
from llamahost.native.devices import buffer_type, handles
from llamahost.native.library import Library

MAX_DEVICES = 16
SPLITS = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
_AUTO, _PLAIN, _MLOCK, _MMAP_MLOCK = -1, 0, 2, 3  # llama_load_mode


class TensorBuftOverride(ctypes.Structure):
    """llama_model_tensor_buft_override: tensors whose name fits the pattern go into buffers of this type."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How a model is laid out. `devices` are names, none means all; one that begins with "cpu" means no device at all.

    `overrides` are "pattern=place", the first that fits counts; a place is CPU or a device. `tensor_split` are shares
    of the devices in their order. A build for the CPU alone passes over whatever speaks of devices.
    """

    n_gpu_layers: int = -1
    devices: tuple[str, ...] = ()
    split_mode: Literal["none", "layer", "row", "tensor"] = "layer"
    tensor_split: tuple[float, ...] = ()
    main_device: int = 0
    overrides: tuple[str, ...] = ()
    mmap: bool = True
    mlock: bool = False

    def __post_init__(self) -> None:
        if not -1 <= self.n_gpu_layers < 2**31:
            raise LoadFailed(f"n_gpu_layers must be between -1 and 2147483647, not {self.n_gpu_layers}")
        if len(self.devices) > MAX_DEVICES or len(self.tensor_split) > MAX_DEVICES:
            raise LoadFailed(f"a model can be on {MAX_DEVICES} devices at most")
        if not all(0.0 <= share <= 1e6 for share in self.tensor_split):
            raise LoadFailed("tensor_split holds numbers between 0 and 1e6")
        if not 0 <= self.main_device < max(1, len(self.devices) or MAX_DEVICES):
            raise LoadFailed(f"main_device must be one of {len(self.devices) or MAX_DEVICES}, not {self.main_device}")


def fill(params: Any, options: ModelOptions, loaded: Library) -> list[object]:
    """Write the options into C's parameters; what is returned must live until the load is over. Raises LoadFailed."""
    kept: list[object] = []
    params.n_gpu_layers = options.n_gpu_layers
    params.load_mode = (_MMAP_MLOCK if options.mmap else _MLOCK) if options.mlock else _AUTO if options.mmap else _PLAIN
    if options.overrides:
        table = _overrides(options.overrides)
        kept.append(table)
        params.tensor_buft_overrides = ctypes.cast(table, ctypes.c_void_p)
    if not loaded.has_gpu:
        return kept
    is_on_cpu = any(name.lower().startswith("cpu") for name in options.devices)
    if options.devices:
        pointers = [] if is_on_cpu else _named(options.devices)
        row = (ctypes.c_void_p * (len(pointers) + 1))(*pointers, None)
        kept.append(row)
        params.devices = ctypes.cast(row, ctypes.c_void_p)
    if is_on_cpu:
        params.n_gpu_layers = 0
        return kept
    params.split_mode = SPLITS[options.split_mode]
    params.main_gpu = options.main_device
    if options.tensor_split:
        n = max(MAX_DEVICES, int(loaded.c.llama_max_devices()))  # C copies so many
        shares = (ctypes.c_float * n)(*options.tensor_split)
        kept.append(shares)
        params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
    return kept


def owners(buffer: str, devices: Collection[str]) -> tuple[str, ...]:
    """Whose memory a buffer of llama.cpp's is, by its name: one device's, that of each of a tensor split, or, where it
    is nobody's (CPU, CPU_Mapped, CUDA_Host), the host's.
    """
    if buffer.startswith("Meta("):  # of all, though it names none; told is what the largest takes
        return tuple(devices)
    name = buffer.partition("[")[0]  # RPC0[192.168.0.7:50052]
    name = name if name in devices else name.rpartition("_")[0]  # MTL0_Mapped
    return (name,) if name in devices else ()


def _named(names: Sequence[str]) -> list[int]:
    known = handles()
    by_name = {name.lower(): pointer for name, pointer in known.items()}
    for name in names:
        if name.lower() not in by_name:
            raise LoadFailed(f"there is no device `{name}`; llama.cpp has {', '.join(known)}")
    return [by_name[name.lower()] for name in names]


def _overrides(given: Sequence[str]) -> Any:
    rows = []
    for each in given:
        pattern, _, place = each.rpartition("=")
        rows.append(TensorBuftOverride(pattern.encode(), buffer_type(place)))
    return (TensorBuftOverride * (len(rows) + 1))(*rows, TensorBuftOverride(None, None))
