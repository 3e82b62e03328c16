"""Where models can be put: a name, a kind, memory. Knows no model; what a real device is, `native/devices` knows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from llamahost.core.errors import LoadFailed
from llamahost.core.machine import Machine

Kind = Literal["gpu", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One place for models. `id` is what manifests name; `pci_id` and `uuid` are how other tools know the same card."""

    id: str
    kind: Kind = "cpu"
    name: str = ""
    uuid: str = ""
    pci_id: str = ""
    total_bytes: int = 0
    backend_index: int = -1  # among llama.cpp's devices; -1: the CPU, which it need not be told of

    def is_called(self, name: str) -> bool:
        """Whether a manifest may mean it by this: its id, its UUID or its PCI id, in any case."""
        wanted = name.lower()
        return wanted in (self.id.lower(), self.uuid.lower() or None) or is_same_card(self.pci_id, wanted)


_NO_GPU = "no CUDA-capable device"
"""What CUDA says where it works and finds nothing to work on."""


def is_same_card(pci_id: str, other: str) -> bool:
    """Whether two tools mean one card: one writes the domain with four digits, another with eight, or in capitals."""
    return _numbers(pci_id) == _numbers(other) != ()


def _numbers(pci_id: str) -> tuple[int, ...]:
    try:
        return tuple(int(part, 16) for part in pci_id.replace(".", ":").split(":"))
    except ValueError:
        return ()


class Devices(Protocol):
    """The devices of this machine. May block for a second: asked in a thread."""

    def all(self) -> tuple[Device, ...]: ...

    def free_bytes(self) -> Mapping[str, int]:
        """What is free now, by id; a device that does not tell is left out."""
        ...

    @property
    def trouble(self) -> str:
        """Why there is no GPU where the build is made for one; else empty."""
        ...

    @property
    def is_broken(self) -> bool:
        """Whether that is because a driver fails, and not because the machine has none."""
        ...

    @property
    def blocks(self) -> bool:
        """Whether asking takes long."""
        ...

    @property
    def is_budgeted(self) -> bool:
        """Whether the memory was said by somebody, and is kept to by the byte."""
        ...

    def budgeted(self, host_bytes: int | None) -> Devices:
        """The same with another bound on the CPU's memory, or with none."""
        ...


@dataclass(frozen=True)
class HostDevices:
    """The CPU alone, with the memory that the process is given. Needs no llama.cpp."""

    host_bytes: int | None = None
    trouble: str = ""
    is_broken: bool = False
    blocks: bool = False

    @property
    def is_budgeted(self) -> bool:
        return self.host_bytes is not None

    def budgeted(self, host_bytes: int | None) -> HostDevices:
        return replace(self, host_bytes=host_bytes)

    def all(self) -> tuple[Device, ...]:
        return (Device(id="cpu", total_bytes=self.host_bytes or Machine.read().memory_bytes),)

    def free_bytes(self) -> Mapping[str, int]:
        return {"cpu": self.host_bytes or Machine.read().available_bytes}


@dataclass(frozen=True)
class BudgetedDevices:
    """Several devices that are all this CPU, each with a budget of its own: how a fleet is driven without GPUs."""

    budgets: Mapping[str, int]
    kind: Kind = "cpu"
    trouble: str = ""
    is_broken: bool = False
    blocks: bool = False
    is_budgeted: bool = True

    def budgeted(self, host_bytes: int | None) -> BudgetedDevices:
        return self  # each has its own

    def all(self) -> tuple[Device, ...]:
        return tuple(Device(id=name, kind=self.kind, total_bytes=n) for name, n in self.budgets.items())

    def free_bytes(self) -> Mapping[str, int]:
        return {}


@dataclass
class MachineDevices:
    """llama.cpp's own list, the CPU last, under the same ids as `llamahost check` tells."""

    host_bytes: int | None = None
    trouble: str = field(default="", init=False)
    blocks: bool = True

    @property
    def is_broken(self) -> bool:
        return ": " in self.trouble and _NO_GPU not in self.trouble

    @property
    def is_budgeted(self) -> bool:
        return self.host_bytes is not None

    def budgeted(self, host_bytes: int | None) -> MachineDevices:
        new = MachineDevices(host_bytes)
        new.trouble = self.trouble
        return new

    def all(self) -> tuple[Device, ...]:
        from llamahost.core.errors import (
            LoadFailed,
        )  # the native room brings llama_cpp, which takes a third of a second

        found: list[Device] = []
        try:
            from llamahost.native.devices import devices, trouble  # brings llama_cpp, which takes a while

            for k, each in enumerate(devices()):
                if each.kind in ("GPU", "integrated GPU"):
                    found.append(
                        Device(
                            id=each.name,
                            kind="gpu",
                            name=each.description,
                            pci_id=each.pci_id,
                            total_bytes=each.total_bytes,
                            backend_index=k,
                        )
                    )
            self.trouble = "" if found else trouble()
        except LoadFailed as error:  # told again, and to whoever asked for a model, by its load
            self.trouble = str(error)
        return (*found, *HostDevices(self.host_bytes).all())

    def free_bytes(self) -> Mapping[str, int]:
        free = dict(HostDevices(self.host_bytes).free_bytes())
        with contextlib.suppress(LoadFailed):
            from llamahost.native.devices import devices

            free.update({each.name: each.free_bytes for each in devices() if each.kind.endswith("GPU")})
        return free
