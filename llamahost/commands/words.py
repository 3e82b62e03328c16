"""Figures and rows as people read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamahost.core.sizes import bytes_told

if TYPE_CHECKING:
    from llamahost.ops.gpu import Gpu


def counted(n: int, one: str) -> str:
    """1 slot, 2 slots."""
    return f"{n} {one}" if n == 1 else f"{n} {one}s"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what they hold, two spaces between; the last one ragged."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(widths[k]) for k, cell in enumerate(row)).rstrip() for row in rows)


def gpu_told(gpu: Gpu) -> str:
    """In one line, what it tells: memory, load, temperature, power, clock, what holds it back, who computes."""
    parts = [gpu.name or "a GPU"]
    if gpu.total_bytes is not None and gpu.used_bytes is not None:
        parts.append(f"{bytes_told(gpu.used_bytes)} of {bytes_told(gpu.total_bytes)} used")
    if gpu.utilisation is not None:
        parts.append(f"{gpu.utilisation:.0%} busy")
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c} °C")
    if gpu.power_w is not None:
        limit = "" if gpu.power_limit_w is None else f" of {gpu.power_limit_w:.0f}"
        parts.append(f"{gpu.power_w:.0f}{limit} W")
    if gpu.sm_clock_mhz is not None:
        limit = "" if gpu.sm_clock_max_mhz is None else f" of {gpu.sm_clock_max_mhz}"
        parts.append(f"{gpu.sm_clock_mhz}{limit} MHz")
    if reasons := [reason for reason in gpu.throttled_by or () if reason != "idle"]:
        parts.append(f"held back by {', '.join(reasons)}")
    if gpu.processes:
        parts.append(f"{len(gpu.processes)} {'process' if len(gpu.processes) == 1 else 'processes'}")
    return ", ".join(parts)
