"""Where models can be put: a name, a kind, memory. Knows no model; what a real device is, `native/devices` knows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

from llamahost.core.errors import LoadFailed
from llamahost.core.machine import Machine
from llamahost.ops.gpu import Gpu, Gpus, Nvml

Kind = Literal["gpu", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One place for models. `id` is what manifests name; `pci_id` and `uuid` are how other tools know the same card.

    `unseen_bytes` is to stay free beside all that is counted: no log tells of it, and where it is missing in the middle
    of a step, the process ends.
    """

    id: str
    kind: Kind = "cpu"
    name: str = ""
    uuid: str = ""
    pci_id: str = ""
    total_bytes: int = 0
    unseen_bytes: int = 0
    compute: tuple[int, int] | None = None  # capability of NVIDIA's, by which ggml chooses its kernels
    is_integrated: bool = False  # a GPU in the processor, whose memory is the processor's

    def is_called(self, name: str) -> bool:
        """Whether a manifest may mean it by this: its id, its UUID or its PCI id, in any case."""
        wanted = name.lower()
        return wanted in (self.id.lower(), self.uuid.lower() or None) or is_same_card(self.pci_id, wanted)


def gpus_of(devices: Sequence[Device]) -> list[Device]:
    """Those that models go on where nothing is said: an integrated one only where there is no card, as in llama.cpp."""
    gpus = [each for each in devices if each.kind == "gpu"]
    return [each for each in gpus if not each.is_integrated] or gpus


MOST_UNSEEN, UNSEEN_SHARE = 2**30, 16
"""Of a card: its scratch pools, cuBLAS, kernels that come with their first use. llama.cpp's `--fit` leaves 1 GiB; of
a small card that would be too much, and models that fit it are small too."""

_NO_GPU = "-capable device"
"""What CUDA and ROCm say where they work and find nothing to work on."""


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

    def forsake(self, device_id: str) -> None:
        """This one is broken: it is asked for nothing any more."""
        ...


class Trouble(NamedTuple):
    """Why there is no GPU where the build is made for one, and what is done about it: what asks for one is refused, if
    a driver `is_broken` also whatever does not ask for the CPU; or, where it `falls_back`, all of it goes on the CPU.
    """

    told: str = ""
    is_broken: bool = False
    falls_back: bool = False


NO_TROUBLE = Trouble()


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

    def forsake(self, device_id: str) -> None:
        return  # no driver is asked

    def all(self) -> tuple[Device, ...]:
        return (Device(id="cpu", total_bytes=self.host_bytes or Machine.read().memory_bytes),)

    def free_bytes(self) -> Mapping[str, int]:
        return {"cpu": self.host_bytes or Machine.read().available_bytes}


class Listed(Protocol):
    """A device as llama.cpp tells it; `native/devices` has those of this machine."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def pci_id(self) -> str: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...


def _listed(forsaken: Collection[str]) -> Sequence[Listed]:
    from llamahost.native.devices import devices  # brings llama_cpp, which takes a while

    return devices(without=forsaken)


def _trouble() -> str:
    from llamahost.native.devices import trouble

    return trouble()


def _seen() -> Gpus:
    """What NVML tells now."""
    nvml = Nvml()
    nvml.open()
    try:
        return nvml.sample()
    finally:
        nvml.close()


@dataclass
class MachineDevices:
    """llama.cpp's own list, the CPU last, under the same ids as `llamahost check` tells.

    NVML knows the same cards by UUID and PCI id, all of them and in another order than CUDA_VISIBLE_DEVICES makes it:
    they are matched by PCI id, which both tell. One that is broken is not asked any more, and so not listed. `listed`
    (without those that are named), `complaint` and `seen` are there for tests.
    """

    host_bytes: int | None = None
    listed: Callable[[Collection[str]], Sequence[Listed]] = _listed
    complaint: Callable[[], str] = _trouble
    seen: Callable[[], Gpus] = _seen
    trouble: str = field(default="", init=False)
    is_broken: bool = field(default=False, init=False)
    blocks: bool = True
    _forsaken: frozenset[str] = field(default=frozenset(), init=False)

    @property
    def is_budgeted(self) -> bool:
        return self.host_bytes is not None

    def budgeted(self, host_bytes: int | None) -> MachineDevices:
        new = MachineDevices(host_bytes, self.listed, self.complaint, self.seen)
        new.trouble, new.is_broken, new._forsaken = self.trouble, self.is_broken, self._forsaken
        return new

    def forsake(self, device_id: str) -> None:
        self._forsaken |= {device_id}

    def _gpus(self) -> list[Listed]:
        """A card that two back ends know is the first one's, as in llama.cpp."""
        found: dict[str, Listed] = {}
        for each in self.listed(self._forsaken):
            if each.kind.endswith("GPU"):
                found.setdefault(each.pci_id or each.name, each)
        return list(found.values())

    def all(self) -> tuple[Device, ...]:
        found: list[Device] = []
        self.trouble = ""
        try:
            gpus = self._gpus()
            if not gpus and not self._forsaken:
                self.trouble = self.complaint()
        except LoadFailed as error:  # told again, and to whoever asked for a model, by its load
            self.trouble, gpus = str(error), []
        self.is_broken = ": " in self.trouble and _NO_GPU not in self.trouble
        if gpus or self.trouble:
            seen = self.seen()
            for each in gpus:
                card = card_of(seen, each.pci_id)
                found.append(
                    Device(
                        id=each.name,
                        kind="gpu",
                        name=each.description,
                        uuid=card.uuid if card is not None else "",
                        pci_id=each.pci_id,
                        total_bytes=each.total_bytes,
                        compute=card.compute if card is not None else None,
                        is_integrated=each.kind != "GPU",
                        unseen_bytes=min(MOST_UNSEEN, each.total_bytes // UNSEEN_SHARE),
                    )
                )
            if self.trouble:
                cards = ", ".join(f"{gpu.name} {gpu.uuid}" for gpu in seen.gpus)
                self.trouble += f"; NVML knows {cards}" if cards else f"; NVML: {seen.trouble}"
        return (*found, *HostDevices(self.host_bytes).all())

    def free_bytes(self) -> Mapping[str, int]:
        free = dict(HostDevices(self.host_bytes).free_bytes())
        with contextlib.suppress(LoadFailed):
            gpus = self._gpus()
            seen = self.seen() if gpus else Gpus()
            for each in gpus:
                card = card_of(seen, each.pci_id)
                told = card.free_bytes if card is not None else None
                free[each.name] = each.free_bytes if told is None else min(each.free_bytes, told)
        return free


def card_of(seen: Gpus, pci_id: str) -> Gpu | None:
    """NVML's word for the card of this place."""
    return next((gpu for gpu in seen.gpus if is_same_card(gpu.pci_id, pci_id)), None)
