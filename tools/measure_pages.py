#!/usr/bin/env python3
"""Measure what the pages that tell of all models cost, and for how long they hold up the event loop.

    python tools/measure_pages.py --models 3000

A manifest of so many models, none of them loaded, is served within this process. While a page is made, the loop is
asked every millisecond how late it is, which is what any stream would wait; time for which no core was free is left
out. The least of several runs says what the code does, the middle one how busy the machine is.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import threading
import time
from pathlib import Path

from starlette.types import Message

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("/metrics", "/v1/models", "/api/models", "/api/stats", "/health", "/ready", "/v1/models/model-7")
TICK_S = 0.001


class Lateness:
    """How late the ticks of the loop are, less what its thread waited for a core. Linux tells that."""

    def __init__(self) -> None:
        self._schedstat = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        self.worst_s = 0.0

    async def watch(self) -> None:
        while True:
            began, waited_s = time.perf_counter(), self._waited_s()
            await asyncio.sleep(TICK_S)
            late_s = time.perf_counter() - began - TICK_S - (self._waited_s() - waited_s)
            self.worst_s = max(self.worst_s, late_s)

    def _waited_s(self) -> float:
        return int(os.pread(self._schedstat, 64, 0).split()[1]) / 1e9


async def measure(n_models: int, n_runs: int) -> None:
    from llamahost.api.app import App, create_app
    from llamahost.core.gil import switch_soon
    from llamahost.fleet.settings.manifest import BUILTIN_PATH, Manifest, ModelSpec, ServerSettings
    from llamahost.host import AsyncHost
    from llamahost.ops.tally import Tally

    async def bytes_of(app: App, path: str) -> int:
        n = 0

        async def send(message: Message) -> None:
            nonlocal n
            n += len(message.get("body", b""))

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        head = {"path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": []}
        await app({"type": "http", "method": "GET", **head}, receive, send)
        return n

    switch_soon()
    specs = tuple(ModelSpec(name=f"model-{k}", path=BUILTIN_PATH, load="hand") for k in range(n_models))
    settings, tally = ServerSettings(host="127.0.0.1"), Tally()
    host = AsyncHost(Manifest(models=specs, server=settings), observer=tally)
    app = create_app(host, settings, tally=tally)
    async with app.lifespan():
        await asyncio.sleep(1.0)
        gc.collect()
        gc.freeze()  # as a server does
        lateness = Lateness()
        print(f"{n_models} models{'bytes':>23}{'CPU ms':>9}{'late ms: least':>16}{'median':>8}")
        for path in PAGES:
            cpu_s, late_s, n = [], [], 0
            for _ in range(n_runs):
                watching = asyncio.create_task(lateness.watch())
                await asyncio.sleep(5 * TICK_S)
                lateness.worst_s, began = 0.0, time.process_time()
                n = await bytes_of(app, path)
                cpu_s.append(time.process_time() - began)
                await asyncio.sleep(5 * TICK_S)
                watching.cancel()
                late_s.append(lateness.worst_s)
            print(
                f"{path:24}{n:10}{1000 * min(cpu_s):9.1f}{1000 * min(late_s):16.1f}"
                f"{1000 * statistics.median(late_s):8.1f}"
            )


def main() -> None:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=8, help="of each page")
    args = parser.parse_args()
    asyncio.run(measure(args.models, args.runs))


if __name__ == "__main__":
    main()
