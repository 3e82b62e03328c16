"""The soaked server as a process: its start, what the kernel and it tell of it, its end. Knows no request."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.soak.house import ROOT, House

LOUD = re.compile(r"Traceback|never retrieved|never awaited|Exception ignored|Fatal|ResourceWarning|unexpectedly")
"""What a log must not say, whatever was asked."""


@dataclass(frozen=True)
class Standing:
    """How a process stands at a quiet point."""

    n_files: int
    n_threads: int
    rss_bytes: int  # once what is free was given back
    tasks: tuple[str, ...]
    threads: tuple[str, ...]
    objects: Mapping[str, int]


class Server:
    """Owned by the soak. `n_devices` 0: the machine's own CPU, as `llamahost serve` finds it."""

    def __init__(self, house: House, *, n_devices: int, device_bytes: int) -> None:
        self.house = house
        self._told = house.folder / "told.json"
        self.log = house.folder / "server.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMAHOST_")}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "default",
            "LLAMAHOST_THREADS": "1",
            "LLAMAHOST_CACHE": str(house.folder / "cache"),
            "SOAK_TOLD": str(self._told),
            "SOAK_DEVICES": f"{n_devices}:{device_bytes}",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tools.soak.serve", "serve", "--manifest", str(house.manifest), "--port", "0"],
                cwd=house.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.port = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, mark: str, limit_s: float = 120.0) -> str:
        """The first line that holds this."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            for line in self.text().splitlines():
                if mark in line:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"it never said `{mark}` but {self.text()[-2000:]}")

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def stacks(self) -> None:
        """On its log."""
        self.process.send_signal(signal.SIGUSR2)

    async def standing(self) -> Standing:
        self._told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        for _ in range(300):
            await asyncio.sleep(0.1)
            if self._told.exists():
                break
        told: dict[str, Any] = json.loads(self._told.read_text())
        proc = Path(f"/proc/{self.pid}")
        status = (proc / "status").read_text()
        rss = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert rss is not None
        return Standing(
            n_files=len(list((proc / "fd").iterdir())),
            n_threads=len(list((proc / "task").iterdir())),
            rss_bytes=int(rss.group(1)) * 1024,
            tasks=tuple(told["tasks"]),
            threads=tuple(told["threads"]),
            objects=told["objects"],
        )

    def end(self, limit_s: float) -> tuple[int, float]:
        """The status and the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit_s), time.monotonic() - began
        except subprocess.TimeoutExpired:
            self.stacks()
            time.sleep(1)
            self.process.kill()
            self.process.wait()
            return -1, time.monotonic() - began

    def loud_lines(self) -> list[str]:
        return [line for line in self.text().splitlines() if LOUD.search(line) and "total_ms" not in line]
