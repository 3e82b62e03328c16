"""Blocking work in a thread of its own, awaited on the loop. Knows no model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def in_thread(name: str, work: Callable[[], Result]) -> asyncio.Future[Result]:
    """Run `work` in a thread of its own, which does not keep the process from ending. Loads and unloads do that."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():  # cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # Result may itself be None, which typing cannot say

    def run() -> None:
        result: Result | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits
            return

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
