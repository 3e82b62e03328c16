"""GPUs as Prometheus text, from the monitor's last sample. Asks no GPU itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llamahost.ops.exposition import Row, family
from llamahost.ops.gpu import Gpu
from llamahost.ops.gpu_monitor import GpuMonitor

_LABELS = ("gpu", "name", "uuid")

_GAUGES: tuple[tuple[str, str, Callable[[Gpu], float | None]], ...] = (
    ("memory_total_bytes", "Memory of the GPU.", lambda gpu: gpu.total_bytes),
    ("memory_used_bytes", "Memory that is taken, by whomever.", lambda gpu: gpu.used_bytes),
    ("utilisation_ratio", "Part of the time in which it computed.", lambda gpu: gpu.utilisation),
    ("memory_utilisation_ratio", "Part of the time in which memory was used.", lambda gpu: gpu.memory_utilisation),
    ("temperature_celsius", "Of the GPU.", lambda gpu: gpu.temperature_c),
    ("power_watts", "Drawn now.", lambda gpu: gpu.power_w),
    ("power_limit_watts", "That it may draw.", lambda gpu: gpu.power_limit_w),
    ("sm_clock_hertz", "Clock of the processors.", lambda gpu: _hertz(gpu.sm_clock_mhz)),
    ("memory_clock_hertz", "Clock of the memory.", lambda gpu: _hertz(gpu.memory_clock_mhz)),
    ("lost", "1 when it answers no more.", lambda gpu: float(gpu.is_lost)),
    ("broken", "1 after a fault of its own: nothing is put there any more.", lambda gpu: float(bool(gpu.broken_by))),
)


class GpuFigures:
    """Asked at each scrape. What a GPU does not tell is left out."""

    def __init__(self, monitor: GpuMonitor) -> None:
        self._monitor = monitor

    def lines(self) -> Iterator[str]:
        gpus, faults = self._monitor.latest.gpus, self._monitor.faults.items()
        for name, told, figure in _GAUGES:
            rows: list[Row] = [(_who(gpu), value) for gpu in gpus if (value := figure(gpu)) is not None]
            yield from family("gauge", f"llamahost_gpu_{name}", told, _LABELS, rows)
        rows = [((*_who(gpu), reason), 1.0) for gpu in gpus for reason in gpu.throttled_by or ()]
        told = "1 for each reason that holds the clocks down."
        yield from family("gauge", "llamahost_gpu_throttled", told, (*_LABELS, "reason"), rows)
        rows = [((index, uuid, "lost" if xid is None else xid), n) for (index, uuid, xid), n in faults]
        told = "Xids, and losses of a GPU."
        yield from family("counter", "llamahost_gpu_faults_total", told, ("gpu", "uuid", "xid"), rows)


def _who(gpu: Gpu) -> tuple[object, ...]:
    return gpu.index, gpu.name, gpu.uuid


def _hertz(mhz: int | None) -> float | None:
    return None if mhz is None else mhz * 1e6
