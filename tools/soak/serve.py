"""`llamahost serve` in a process that tells of itself: SIGUSR1 has it write its tasks and threads down, SIGUSR2 their
stacks on standard error. With --devices it has so many CPUs, each as if it were a card of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path


def tell(path: Path) -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is left is in use
    tasks = [task for task in asyncio.tasks._all_tasks if not task.done()]  # type: ignore[attr-defined]  # of any loop
    kinds = Counter(type(each).__qualname__ for each in gc.get_objects())
    told = {
        "tasks": sorted(getattr(task.get_coro(), "__qualname__", "?") for task in tasks),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "objects": dict(kinds.most_common(60)),
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps(told))
    new.replace(path)


def main() -> None:
    path = Path(os.environ["SOAK_TOLD"])
    signal.signal(signal.SIGUSR1, lambda number, frame: tell(path))
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    n_devices, n_bytes = (int(each) for each in os.environ["SOAK_DEVICES"].split(":"))
    if n_devices:
        import llamahost.host
        from tests.fleet.budgeted import BudgetedDevices

        budgets = {f"cpu{k}": n_bytes for k in range(n_devices)}
        llamahost.host.MachineDevices = lambda host_bytes: BudgetedDevices(budgets)  # type: ignore[assignment,misc,attr-defined]
    from llamahost.cli import app

    app(sys.argv[1:], prog_name="llamahost")


if __name__ == "__main__":
    main()
