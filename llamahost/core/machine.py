"""What this process is given of the machine: CPUs and memory. Knows Linux's files; knows no model.

A container sees the totals of its host, and threads or cells beyond its own share make it slow or dead. So every
cgroup limit on the way from the process to the root counts, version 1 and 2. All is read below one root folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Machine:
    """CPUs that may run at once, and bytes of memory: the limit, and what is left of it. `n_cores` 0: not known."""

    n_cpus: int
    memory_bytes: int
    available_bytes: int
    n_cores: int = 0

    @property
    def n_threads(self) -> int:
        """As many as compute without sharing a core: a second thread on a core only takes caches away here."""
        return max(1, min(self.n_cores or self.n_cpus, self.n_cpus))

    @classmethod
    def read(cls, root: str | Path = "/", *, cpus: frozenset[int] | None = None) -> Machine:
        """As it is now. `cpus` are those that the process may run on, by default what the system says."""
        root = Path(root)
        cpus = cpus if cpus is not None else _affinity()
        groups = list(_groups(root))
        quota = min((limit for group in groups if (limit := group.cpu_limit()) is not None), default=float(len(cpus)))
        n_cpus = max(1, min(len(cpus), int(quota)))  # rounded down: a throttled thread makes all others wait
        total, available = _meminfo(root)
        for group in groups:
            limit, used = group.memory()
            total = min(total, limit)
            available = min(available, max(0, limit - used))
        n_cores = min(n_cpus, _n_cores(root, cpus))
        return cls(n_cpus=n_cpus, memory_bytes=total, available_bytes=available, n_cores=n_cores)


_UNLIMITED = 2**62
"""Version 1 writes nearly 2**63 where there is no limit."""


@dataclass(frozen=True, slots=True)
class _Group:
    """One folder of a cgroup hierarchy; files that are not there limit nothing."""

    folder: Path
    version: int

    def cpu_limit(self) -> float | None:
        if self.version == 2:
            quota, _, period = _text(self.folder / "cpu.max").partition(" ")
        else:
            quota, period = _text(self.folder / "cpu.cfs_quota_us"), _text(self.folder / "cpu.cfs_period_us")
        if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
            return None  # "max", or -1 in version 1
        return int(quota) / int(period)

    def memory(self) -> tuple[int, int]:
        """Limit and use. File cache that nobody needs now is not use: the kernel drops it before it kills."""
        names = ("memory.max", "memory.high") if self.version == 2 else ("memory.limit_in_bytes",)
        used = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        cached = "inactive_file" if self.version == 2 else "total_inactive_file"
        limit = min(_number(self.folder / name, _UNLIMITED) for name in names)
        if limit >= _UNLIMITED:
            return _UNLIMITED, 0
        found = re.search(rf"^{cached} (\d+)$", _text(self.folder / "memory.stat"), re.MULTILINE)
        return limit, max(0, _number(self.folder / used, 0) - (int(found[1]) if found else 0))


def _groups(root: Path) -> Iterator[_Group]:
    """Every folder from the process's own group up to the mount, of each hierarchy that limits CPU or memory."""
    path_of: dict[str, str] = {}  # by controller; version 2 is the empty one
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            path_of[controller] = path
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        mount, source = left.split(" "), right.split(" ")
        if len(mount) < 5 or len(source) < 3 or source[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if source[0] == "cgroup2" else 1
        controllers_here = {""} if version == 2 else {"cpu", "memory"} & set(source[2].split(","))
        for controller in sorted(controllers_here & path_of.keys()):
            top = root / _unescaped(mount[4]).lstrip("/")
            inside = _inside(path_of[controller], _unescaped(mount[3]))
            for depth in range(len(inside), -1, -1):
                yield _Group(top.joinpath(*inside[:depth]), version)


def _inside(path: str, mounted: str) -> tuple[str, ...]:
    """The parts of a group's path below what is mounted; none where the mount shows only the container's own."""
    try:
        parts = PurePosixPath(path).relative_to(mounted).parts
    except ValueError:
        return ()
    return () if ".." in parts else parts


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _n_cores(root: Path, cpus: frozenset[int]) -> int:
    """Physical cores among these CPUs; a CPU whose siblings are not known counts as one."""
    siblings = {
        _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus
    }
    return max(1, len(siblings))


def _meminfo(root: Path) -> tuple[int, int]:
    """Total and available bytes of the whole machine."""
    text = _text(root / "proc/meminfo")
    found = {key: int(value) * 1024 for key, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    total = found.get("MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total, found.get("MemAvailable", total)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path, default: int) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else default


def _unescaped(field: str) -> str:
    """mountinfo writes a space as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
