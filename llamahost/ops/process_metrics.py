"""This process as Prometheus text, under the names that every exporter gives: memory, processor time, open files.

Told where Linux tells it, and left out elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from llamahost.ops.exposition import Kind, family

_BOOTED = re.compile(rb"^btime (\d+)$", re.MULTILINE)
_MAX_FILES = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)


class ProcessFigures:
    """Asked at each scrape."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._own = proc / "self"
        try:
            booted = _BOOTED.search((proc / "stat").read_bytes())  # a millisecond, where there are many cores
        except OSError:
            booted = None
        self._booted_at = float(booted[1]) if booted else None

    def lines(self) -> Iterator[str]:
        for kind, name, told, figure in self._figures():
            yield from family(kind, f"process_{name}", told, (), [((), figure)])

    def _figures(self) -> Iterator[tuple[Kind, str, str, float]]:
        if self._booted_at is None:
            return
        tick_s, n_page = 1 / os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        stat = (self._own / "stat").read_bytes().rpartition(b")")[2].split()  # the program's name may hold anything
        used_s, age_s = (int(stat[11]) + int(stat[12])) * tick_s, int(stat[19]) * tick_s
        yield "gauge", "virtual_memory_bytes", "Virtual memory size in bytes.", int(stat[20])
        yield "gauge", "resident_memory_bytes", "Resident memory size in bytes.", int(stat[21]) * n_page
        yield "gauge", "start_time_seconds", "Start of the process since the epoch in seconds.", self._booted_at + age_s
        yield "counter", "cpu_seconds_total", "User and system CPU time spent in seconds.", used_s
        files = self._own / "fd"
        n_files = files.stat().st_size or len(list(files.iterdir()))  # Linux before 6.2 says 0
        yield "gauge", "open_fds", "Open file descriptors.", n_files
        if (most := _MAX_FILES.search((self._own / "limits").read_text())) is not None:
            yield "gauge", "max_fds", "Most open file descriptors.", int(most[1])
