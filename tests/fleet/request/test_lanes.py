"""What is large waits for what is large alone, and holds up nothing else."""

import threading

from llamahost.fleet.request.lanes import N_LARGE, Lanes
from tests.on_loop import LIMIT_S


def test_nothing_smaller_waits_behind_large_work() -> None:
    lanes = Lanes(2)
    gate = threading.Event()
    large = [lanes.submit(lambda: gate.wait(LIMIT_S), N_LARGE + 1) for _ in range(8)]
    assert lanes.submit(lambda: "done", N_LARGE).result(LIMIT_S) == "done"
    assert not any(future.done() for future in large)
    gate.set()
    assert all(future.result(LIMIT_S) for future in large)
    lanes.close()


def test_closing_waits_for_what_runs() -> None:
    lanes = Lanes(1)
    future = lanes.submit(lambda: 1, N_LARGE + 1)
    lanes.close()
    assert future.done()
