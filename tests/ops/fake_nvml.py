"""NVML's border, played: a machine of so many GPUs, in pynvml's own names, structures and errors.

`test_gpu` holds it to pynvml: whatever is public here is there, with the same arguments.
"""

from __future__ import annotations

import queue
from ctypes import c_void_p
from dataclasses import dataclass, field
from typing import Any

import pynvml


@dataclass
class Card:
    """One GPU. `failing`: what each question is answered with, by its name; `""` stands for all of them."""

    name: str = "NVIDIA H100"
    compute: tuple[int, int] = (9, 0)
    total: int = 80 * 2**30
    used: int = 8 * 2**30
    reasons: int = pynvml.nvmlClocksThrottleReasonSwPowerCap
    pids: tuple[int, ...] = (4711,)
    failing: dict[str, int] = field(default_factory=dict)


class FakeNvml:
    """Stands where the module pynvml stands. Everything that does not begin with `_` must be there too."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_TIMEOUT = pynvml.NVML_ERROR_TIMEOUT
    NVML_ERROR_GPU_IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST
    NVML_ERROR_RESET_REQUIRED = pynvml.NVML_ERROR_RESET_REQUIRED
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    NVML_CLOCK_SM = pynvml.NVML_CLOCK_SM
    NVML_CLOCK_MEM = pynvml.NVML_CLOCK_MEM
    nvmlEventTypeXidCriticalError = pynvml.nvmlEventTypeXidCriticalError
    nvmlClocksThrottleReasonGpuIdle = pynvml.nvmlClocksThrottleReasonGpuIdle
    nvmlClocksThrottleReasonApplicationsClocksSetting = pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting
    nvmlClocksThrottleReasonSwPowerCap = pynvml.nvmlClocksThrottleReasonSwPowerCap
    nvmlClocksThrottleReasonHwSlowdown = pynvml.nvmlClocksThrottleReasonHwSlowdown
    nvmlClocksThrottleReasonSyncBoost = pynvml.nvmlClocksThrottleReasonSyncBoost
    nvmlClocksThrottleReasonSwThermalSlowdown = pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    nvmlClocksThrottleReasonHwThermalSlowdown = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
    nvmlClocksThrottleReasonDisplayClockSetting = pynvml.nvmlClocksThrottleReasonDisplayClockSetting

    def __init__(self, *cards: Card, failing: dict[str, int] | None = None) -> None:
        self._cards = cards
        self._failing = {} if failing is None else failing  # also what fails later
        self._n_open = 0
        self._heard: set[int] = set()
        self._xids: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def nvmlInit(self) -> None:
        self._check("nvmlInit")
        self._n_open += 1

    def nvmlShutdown(self) -> None:
        self._check("nvmlShutdown")
        self._n_open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._check("nvmlSystemGetDriverVersion")
        return "570.86.10"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        self._check("nvmlSystemGetCudaDriverVersion")
        return 12080

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        self._check("nvmlSystemGetProcessName")
        return f"/usr/bin/worker-{pid}"

    def nvmlDeviceGetCount(self) -> int:
        self._check("nvmlDeviceGetCount")
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> c_void_p:
        self._check("nvmlDeviceGetHandleByIndex", index)
        return c_void_p(index + 1)  # a pointer of 0 is none

    def nvmlDeviceGetIndex(self, handle: Any) -> int:
        self._card("nvmlDeviceGetIndex", handle)
        return int(handle.value) - 1

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return self._card("nvmlDeviceGetName", handle).name

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        self._card("nvmlDeviceGetUUID", handle)
        return f"GPU-{handle.value - 1}"

    def nvmlDeviceGetPciInfo(self, handle: Any) -> Any:
        self._card("nvmlDeviceGetPciInfo", handle)
        return pynvml.nvmlPciInfo_t(busId=f"00000000:3{handle.value - 1}:00.0".upper().encode())

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> tuple[int, int]:
        return self._card("nvmlDeviceGetCudaComputeCapability", handle).compute

    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any:
        card = self._card("nvmlDeviceGetMemoryInfo", handle)
        return pynvml.c_nvmlMemory_t(total=card.total, used=card.used, free=card.total - card.used)

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        self._card("nvmlDeviceGetUtilizationRates", handle)
        return pynvml.c_nvmlUtilization_t(gpu=87, memory=35)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        self._card("nvmlDeviceGetTemperature", handle)
        return 64

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        self._card("nvmlDeviceGetPowerUsage", handle)
        return 312_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:
        self._card("nvmlDeviceGetEnforcedPowerLimit", handle)
        return 700_000

    def nvmlDeviceGetClockInfo(self, handle: Any, type: int) -> int:
        self._card("nvmlDeviceGetClockInfo", handle)
        return {pynvml.NVML_CLOCK_SM: 1755, pynvml.NVML_CLOCK_MEM: 2619}[type]

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, type: int) -> int:
        self._card("nvmlDeviceGetMaxClockInfo", handle)
        return 1980

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:
        return self._card("nvmlDeviceGetCurrentClocksThrottleReasons", handle).reasons

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int:
        return self._card("nvmlDeviceGetCurrentClocksEventReasons", handle).reasons

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
        pids = self._card("nvmlDeviceGetComputeRunningProcesses", handle).pids
        return [pynvml.nvmlFriendlyObject({"pid": pid, "usedGpuMemory": None}) for pid in pids]

    def nvmlDeviceGetSupportedEventTypes(self, handle: Any) -> int:
        self._card("nvmlDeviceGetSupportedEventTypes", handle)
        return int(pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeDoubleBitEccError)

    def nvmlEventSetCreate(self) -> Any:
        self._check("nvmlEventSetCreate")
        self._heard.clear()
        return pynvml.c_nvmlEventSet_t()

    def nvmlDeviceRegisterEvents(self, handle: Any, eventTypes: int, eventSet: Any) -> None:
        self._card("nvmlDeviceRegisterEvents", handle)
        self._heard.add(handle.value - 1)

    def nvmlEventSetWait_v2(self, eventSet: Any, timeoutms: int) -> Any:
        self._check("nvmlEventSetWait_v2")
        if any(self._cards[k].failing.get("") == pynvml.NVML_ERROR_GPU_IS_LOST for k in self._heard):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        try:
            index, xid = self._xids.get(timeout=timeoutms / 1000)
        except queue.Empty:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT) from None
        device = c_void_p(index + 1)
        event = pynvml.c_nvmlEventData_t(eventType=pynvml.nvmlEventTypeXidCriticalError, eventData=xid)
        return _Event(event, device)

    def nvmlEventSetFree(self, eventSet: Any) -> None:
        self._check("nvmlEventSetFree")

    def _happens(self, index: int, xid: int) -> None:
        """An Xid, told to whoever waits."""
        if index in self._heard:
            self._xids.put((index, xid))

    def _card(self, question: str, handle: Any) -> Card:
        index: int = handle.value - 1
        self._check(question, index)
        return self._cards[index]

    def _check(self, question: str, index: int | None = None) -> None:
        answers = [self._failing] if index is None else [self._failing, self._cards[index].failing]
        for failing in answers:
            if (code := failing.get(question, failing.get(""))) is not None:
                raise pynvml.NVMLError(code)
        if question != "nvmlInit" and self._n_open < 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)


class _Event:
    """pynvml's event, with a device of the fake's own: a struct of its pointer cannot hold one."""

    def __init__(self, event: Any, device: Any) -> None:
        self.eventType = event.eventType
        self.eventData = event.eventData
        self.device = device
