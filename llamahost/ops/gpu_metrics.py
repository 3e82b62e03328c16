"""GPUs as Prometheus text, from the monitor's last sample. Asks no GPU itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from llamahost.ops.gpu import Gpu
from llamahost.ops.gpu_monitor import GpuMonitor

_LABELS = ("gpu", "uuid", "name")

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


class GpuCollector(Collector):
    """Asked at each scrape. What a GPU does not tell is left out."""

    def __init__(self, monitor: GpuMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        gpus = self._monitor.latest.gpus
        for name, told, figure in _GAUGES:
            family = GaugeMetricFamily(f"llamahost_gpu_{name}", told, labels=_LABELS)
            for gpu in gpus:
                if (value := figure(gpu)) is not None:
                    family.add_metric((str(gpu.index), gpu.uuid, gpu.name), value)
            yield family
        throttled = GaugeMetricFamily(
            "llamahost_gpu_throttled", "1 for each reason that holds the clocks down.", labels=(*_LABELS, "reason")
        )
        for gpu in gpus:
            for reason in gpu.throttled_by or ():
                throttled.add_metric((str(gpu.index), gpu.uuid, gpu.name, reason), 1.0)
        yield throttled
        faults = CounterMetricFamily(
            "llamahost_gpu_faults", "Xids, and losses of a GPU.", labels=("gpu", "uuid", "xid")
        )
        for (index, uuid, xid), n in tuple(self._monitor.faults.items()):
            faults.add_metric((str(index), uuid, "lost" if xid is None else str(xid)), n)
        yield faults


def _hertz(mhz: int | None) -> float | None:
    return None if mhz is None else mhz * 1e6
