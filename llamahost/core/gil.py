"""How soon a thread that waits for the GIL has it. Asked for by whoever owns the process: a server, and no library."""

from __future__ import annotations

import ctypes
import sys

SWITCH_S = 0.0002  # a worker needs the GIL for a fraction of this, so that it is seldom interrupted itself

_PR_SET_TIMERSLACK = 29
_SLACK_NS = 1000


def switch_soon() -> None:
    """Of this thread, and of those that it starts from now on.

    A busy loop would otherwise keep the GIL from a worker whose device is done for 5 ms. And Linux has each wait end up
    to 50 µs late, so that others may end with it: that of a worker for the GIL, and a quarter of SWITCH_S.
    """
    sys.setswitchinterval(SWITCH_S)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_SLACK_NS), 0, 0, 0)
