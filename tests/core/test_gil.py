"""Laws of the GIL's switches: who waits has it soon, in every thread that is started later too."""

import sys
import threading
from pathlib import Path

import pytest

from llamahost.core.gil import SWITCH_S, switch_soon


@pytest.mark.skipif(sys.platform != "linux", reason="others have no timer slack")
def test_waits_end_in_time_in_the_thread_that_asks_and_in_those_that_it_starts() -> None:
    before = sys.getswitchinterval()
    found: list[float] = []

    def look() -> None:
        found.append(sys.getswitchinterval())
        found.append(int(Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text()) / 1e9)

    def ask() -> None:
        switch_soon()
        look()
        later = threading.Thread(target=look)
        later.start()
        later.join()

    asking = threading.Thread(target=ask)  # which keeps the slack of this one as it was
    asking.start()
    asking.join()
    sys.setswitchinterval(before)
    assert found == pytest.approx([SWITCH_S, 1e-6] * 2)
