"""What NVML tells of each GPU at one moment. No driver, or a question that a device does not answer, is a value here.

Blocking: asked from a thread, or by a command. Knows no model, no loop and no clock; `gpu_monitor` has those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

NOT_ASKED = "not asked yet"

_OF_APPLICATIONS = frozenset({13, 31, 43, 45, 68, 109})
"""Xids by which a program failed, not the card: those that NVIDIA's own device plugin for Kubernetes passes over."""

_XIDS = {
    13: "graphics engine exception",
    31: "memory page fault",
    43: "the GPU stopped a program",
    45: "clean-up after earlier errors",
    48: "double bit ECC error",
    62: "internal micro-controller halt",
    63: "memory rows are to be remapped",
    64: "memory rows could not be remapped",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    94: "contained ECC error",
    95: "uncontained ECC error",
    109: "context switch timeout",
    119: "GSP does not answer",
    120: "GSP error",
}

_REASONS = (
    ("idle", "GpuIdle"),
    ("application clocks", "ApplicationsClocksSetting"),
    ("power cap", "SwPowerCap"),
    ("hardware slowdown", "HwSlowdown"),
    ("sync boost", "SyncBoost"),
    ("thermal, software", "SwThermalSlowdown"),
    ("thermal, hardware", "HwThermalSlowdown"),
    ("power brake", "HwPowerBrakeSlowdown"),
    ("display clocks", "DisplayClockSetting"),
)
"""What holds the clocks down, by the end of NVML's name for it."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU. `used_bytes` is None where the driver does not tell it."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as it stands; None where it does not tell. `utilisation` is in [0, 1]: the part of the time in which it
    computed. `trouble` is why nothing can be asked of it, or that it is lost; `broken_by` a fault of its own that was
    seen, which NVML forgets."""

    index: int
    name: str = ""
    uuid: str = ""
    pci_id: str = ""
    compute: tuple[int, int] | None = None  # capability: what its generation can, such as (8, 6)
    total_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    utilisation: float | None = None
    memory_utilisation: float | None = None  # the part of the time in which memory was read or written
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    sm_clock_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttled_by: tuple[str, ...] | None = None
    processes: tuple[GpuProcess, ...] | None = None
    is_lost: bool = False
    trouble: str = ""
    broken_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """All of them at one moment; `trouble` says why there are none."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something broke: an Xid, or (`xid` None) a device that is lost. Not `is_fatal`: a program's own fault, which
    may be another's on the same card."""

    index: int
    uuid: str
    pci_id: str
    xid: int | None
    told: str
    is_fatal: bool


class Nvml:
    """NVML, opened. Owned by one thread. `api` is the module pynvml, or what a test puts in its place."""

    def __init__(self, api: Any = None) -> None:
        if api is None:
            import pynvml

            api = pynvml
        self._api = api
        self._trouble = NOT_ASKED
        self._identities: dict[int, tuple[str, str, str]] = {}  # of a lost device too, which tells nothing any more
        self._events: Any = None
        self._n_heard = 0  # GPUs of which it tells

    def open(self) -> str:
        """Begin; why it cannot be asked, or nothing."""
        api = self._api
        try:
            api.nvmlInit()
        except api.NVMLError as error:
            self._trouble = f"no NVIDIA driver: {error}"
            return self._trouble
        self._trouble = ""
        self._identities = {k: self._identity(handle) for k, handle in self._handles() if handle is not None}
        self._events = self._listening()
        return ""

    def close(self) -> None:
        if self._trouble:
            return
        self._trouble = "NVML is closed"
        api = self._api
        if self._events is not None:
            self._or_none(api.nvmlEventSetFree, self._events)
            self._events = None
        self._or_none(api.nvmlShutdown)

    @property
    def has_events(self) -> bool:
        """Whether `wait` waits; where it does not, an Xid is not told."""
        return self._events is not None

    def sample(self) -> Gpus:
        """Every GPU of the machine, whatever CUDA_VISIBLE_DEVICES says."""
        if self._trouble:
            return Gpus(trouble=self._trouble)
        api = self._api
        troubles = _Troubles(api)
        gpus = tuple(self._gpu(k, handle) for k, handle in self._handles(troubles))
        cuda = self._or_none(api.nvmlSystemGetCudaDriverVersion)
        return Gpus(
            gpus=gpus,
            driver=self._or_none(api.nvmlSystemGetDriverVersion) or "",
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
            trouble="" if gpus else f"NVML: {troubles.told}" if troubles.told else "the NVIDIA driver knows no GPU",
        )

    def wait(self, timeout_s: float) -> Fault | None:
        """The next Xid, waited for this long at most. Only where `has_events`."""
        api = self._api
        try:
            event = api.nvmlEventSetWait_v2(self._events, max(1, int(timeout_s * 1000)))
        except api.NVMLError as error:
            if error.value == api.NVML_ERROR_GPU_IS_LOST:
                self._hear_the_others()
            elif error.value != api.NVML_ERROR_TIMEOUT:
                self._events = None  # whatever it is, it would be so at once again
            return None
        if event.eventType != api.nvmlEventTypeXidCriticalError:
            return None
        index = self._or_none(api.nvmlDeviceGetIndex, event.device)
        xid = int(event.eventData)
        told = f"Xid {xid}" + (f", {_XIDS[xid]}" if xid in _XIDS else "")
        return self._fault(-1 if index is None else index, xid, told, is_fatal=xid not in _OF_APPLICATIONS)

    def _hear_the_others(self) -> None:
        """A set with a GPU in it that is lost tells of none any more: another is made, without it."""
        n_before = self._n_heard
        self._or_none(self._api.nvmlEventSetFree, self._events)
        self._events = self._listening()
        if self._events is not None and self._n_heard >= n_before:  # it is in it still: this would go on for ever
            self._or_none(self._api.nvmlEventSetFree, self._events)
            self._events = None

    def lost(self, gpu: Gpu) -> Fault:
        """What is to be told of a GPU that is lost."""
        return self._fault(gpu.index, None, gpu.trouble, is_fatal=True)

    def _fault(self, index: int, xid: int | None, told: str, *, is_fatal: bool) -> Fault:
        _, uuid, pci_id = self._identities.get(index, ("", "", ""))
        return Fault(index=index, uuid=uuid, pci_id=pci_id, xid=xid, told=told, is_fatal=is_fatal)

    def _handles(self, troubles: _Troubles | None = None) -> list[tuple[int, Any]]:
        """By index; None where there is no way to it. `troubles` hear why they cannot even be counted."""
        api = self._api
        n = (troubles or _Troubles(api)).ask(api.nvmlDeviceGetCount) or 0
        return [(k, self._or_none(api.nvmlDeviceGetHandleByIndex, k)) for k in range(n)]

    def _identity(self, handle: Any) -> tuple[str, str, str]:
        api = self._api
        name = self._or_none(api.nvmlDeviceGetName, handle) or ""
        uuid = self._or_none(api.nvmlDeviceGetUUID, handle) or ""
        pci = self._or_none(api.nvmlDeviceGetPciInfo, handle)
        return name, uuid, "" if pci is None else _text(pci.busId).lower()

    def _listening(self) -> Any:
        """A set that hears of every device's Xids; None where no device tells them, as in some containers."""
        api = self._api
        events = self._or_none(api.nvmlEventSetCreate)
        if events is None:
            return None
        n_heard, xid = 0, api.nvmlEventTypeXidCriticalError
        for _, handle in self._handles():
            supported = 0
            if handle is not None:
                supported = self._or_none(api.nvmlDeviceGetSupportedEventTypes, handle) or 0
            if supported & xid:
                troubles = _Troubles(api)
                troubles.ask(api.nvmlDeviceRegisterEvents, handle, xid, events)
                n_heard += not troubles.told
        self._n_heard = n_heard
        if n_heard:
            return events
        self._or_none(api.nvmlEventSetFree, events)
        return None

    def _gpu(self, index: int, handle: Any) -> Gpu:
        api = self._api
        if handle is None:
            name, uuid, pci_id = self._identities.get(index, ("", "", ""))
            troubles = _Troubles(api)
            troubles.ask(api.nvmlDeviceGetHandleByIndex, index)
            return Gpu(
                index=index, name=name, uuid=uuid, pci_id=pci_id, is_lost=troubles.is_lost, trouble=troubles.told
            )
        if index not in self._identities:
            self._identities[index] = self._identity(handle)
        name, uuid, pci_id = self._identities[index]
        troubles = _Troubles(api)
        ask = troubles.ask
        memory = ask(api.nvmlDeviceGetMemoryInfo, handle)
        busy = ask(api.nvmlDeviceGetUtilizationRates, handle)
        power_mw = ask(api.nvmlDeviceGetPowerUsage, handle)
        limit_mw = ask(api.nvmlDeviceGetEnforcedPowerLimit, handle)
        reasons = ask(api.nvmlDeviceGetCurrentClocksThrottleReasons, handle)  # older drivers know this name
        if reasons is None:  # newer ones are to know the other alone
            reasons = ask(api.nvmlDeviceGetCurrentClocksEventReasons, handle)
        processes = ask(api.nvmlDeviceGetComputeRunningProcesses, handle)
        return Gpu(
            index=index,
            name=name,
            uuid=uuid,
            pci_id=pci_id,
            compute=ask(api.nvmlDeviceGetCudaComputeCapability, handle),
            total_bytes=None if memory is None else memory.total,
            used_bytes=None if memory is None else memory.used,
            free_bytes=None if memory is None else memory.free,
            utilisation=None if busy is None else busy.gpu / 100,
            memory_utilisation=None if busy is None else busy.memory / 100,
            temperature_c=ask(api.nvmlDeviceGetTemperature, handle, api.NVML_TEMPERATURE_GPU),
            power_w=None if power_mw is None else power_mw / 1000,
            power_limit_w=None if limit_mw is None else limit_mw / 1000,
            sm_clock_mhz=ask(api.nvmlDeviceGetClockInfo, handle, api.NVML_CLOCK_SM),
            sm_clock_max_mhz=ask(api.nvmlDeviceGetMaxClockInfo, handle, api.NVML_CLOCK_SM),
            memory_clock_mhz=ask(api.nvmlDeviceGetClockInfo, handle, api.NVML_CLOCK_MEM),
            throttled_by=None if reasons is None else self._throttled_by(reasons),
            processes=None if processes is None else tuple(self._process(each) for each in processes),
            is_lost=troubles.is_lost,
            trouble=troubles.told if troubles.is_lost else "",
        )

    def _throttled_by(self, reasons: int) -> tuple[str, ...]:
        prefix = "nvmlClocksThrottleReason"
        return tuple(told for told, name in _REASONS if reasons & getattr(self._api, prefix + name))

    def _process(self, found: Any) -> GpuProcess:
        name = self._or_none(self._api.nvmlSystemGetProcessName, found.pid)  # not told across containers
        return GpuProcess(found.pid, _text(name or "").rpartition("/")[2], found.usedGpuMemory)

    def _or_none(self, question: Callable[..., T], *arguments: object) -> T | None:
        return _Troubles(self._api).ask(question, *arguments)


class _Troubles:
    """What went wrong with one device's questions; each is asked, whatever became of the others."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.told = ""
        self.is_lost = False

    def ask(self, question: Callable[..., T], *arguments: object) -> T | None:
        api = self._api
        try:
            return question(*arguments)
        except api.NVMLError as error:
            if error.value in (api.NVML_ERROR_GPU_IS_LOST, api.NVML_ERROR_RESET_REQUIRED):
                self.is_lost = True
                self.told = str(error)
            self.told = self.told or str(error)
        except UnicodeDecodeError:  # a name of a process, which may be any bytes
            self.told = self.told or "its answer is no text"
        return None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
