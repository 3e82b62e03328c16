"""SIGHUP before the server can do what it asks for: kept, where it would end the process. Knows signals only."""

from __future__ import annotations

import os
import signal
from types import FrameType


class HangUps:
    """Python's handler of the signal, from the process's first moment until the loop has its own."""

    def __init__(self) -> None:
        # Under nohup, which has it ignored, the server is meant to outlive its terminal.
        self.ends_with_terminal = has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self.has_come = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.has_come = True


def keep_hang_ups() -> None:
    """From here on none ends the process by itself. Of the main thread."""
    signal.signal(signal.SIGHUP, HangUps())


def kept_hang_ups() -> HangUps:
    """What has kept them so far; one that begins now where nothing has."""
    handler = signal.getsignal(signal.SIGHUP)
    return handler if isinstance(handler, HangUps) else HangUps()


def has_terminal() -> bool:
    """Whether this process belongs to a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
