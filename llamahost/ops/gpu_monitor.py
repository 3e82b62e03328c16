"""Asks NVML once in a while, in a thread of its own, and tells the loop. Knows no model: whoever listens decides.

Where there is no driver, that is told once and the thread ends. A GPU that is lost, and each Xid, is told when it is
seen, beside the samples.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from llamahost.ops.gpu import NOT_ASKED, Fault, Gpus, Nvml

logger = logging.getLogger("llamahost.gpu")

News = Gpus | Fault
Listener = Callable[[News], None]

WAIT_S = 0.5
"""The longest that NVML is waited in for an Xid, so that closing takes no longer."""


class GpuMonitor:
    """Owned by the loop that starts it. `latest` is the last sample; a `period_s` of 0 asks never."""

    def __init__(self, period_s: float = 1.0, open_nvml: Callable[[], Nvml] = Nvml) -> None:
        self.latest = Gpus(trouble=NOT_ASKED if period_s > 0 else "it is not asked, since gpu_sample_s is 0")
        self.faults: dict[tuple[int, str, int | None], int] = {}  # how often, by index, UUID and Xid
        self._broken: dict[int, str] = {}  # by which fault, of each that had one of its own
        self._period_s = period_s
        self._open_nvml = open_nvml
        self._listeners: list[Listener] = []
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell each sample and each fault on the loop, from now on; returns what ends it."""
        self._listeners.append(listener)

        def end() -> None:
            with contextlib.suppress(ValueError):  # it has ended before
                self._listeners.remove(listener)

        return end

    def start(self) -> None:
        """Begin to ask, and return at once. Again: nothing."""
        if self._period_s <= 0 or self._thread is not None:
            return
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="gpu-monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more; the thread ends by itself, within WAIT_S and the question it is at. Idempotent."""
        self._is_over.set()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._ask(loop, self._open_nvml())
        except RuntimeError:  # the loop is closed: nobody is left to tell
            return
        except Exception as error:
            logger.exception("the GPU monitor failed")
            with contextlib.suppress(RuntimeError):
                self._post(loop, Gpus(trouble=f"the monitor failed: {type(error).__name__}: {error}"))

    def _ask(self, loop: asyncio.AbstractEventLoop, nvml: Nvml) -> None:
        if trouble := nvml.open():
            self._post(loop, Gpus(trouble=trouble))
            return
        lost: set[int] = set()
        try:
            due = time.monotonic()
            while not self._is_over.is_set():
                sample = nvml.sample()
                self._post(loop, sample)
                for gpu in sample.gpus:
                    if gpu.is_lost and gpu.index not in lost:
                        self._post(loop, nvml.lost(gpu))
                lost = {gpu.index for gpu in sample.gpus if gpu.is_lost}
                due = max(due + self._period_s, time.monotonic())
                self._wait(nvml, loop, due)
        finally:
            nvml.close()

    def _wait(self, nvml: Nvml, loop: asyncio.AbstractEventLoop, until: float) -> None:
        """Until the next sample is due; Xids are told as they come, and asked for once where it is due already."""
        while not self._is_over.is_set():
            left_s = until - time.monotonic()
            fault = None
            if nvml.has_events:
                if fault := nvml.wait(max(0.0, min(left_s, WAIT_S))):
                    self._post(loop, fault)
            elif left_s > 0:
                self._is_over.wait(left_s)
            if left_s <= 0 and fault is None:
                return

    def _post(self, loop: asyncio.AbstractEventLoop, news: News) -> None:
        loop.call_soon_threadsafe(self._tell, news)

    def _tell(self, news: News) -> None:
        if self._is_over.is_set():
            return
        if isinstance(news, Gpus):
            news = self.latest = self._remembered(news)
        else:
            if news.is_fatal:
                self._broken[news.index] = news.told
                self.latest = self._remembered(self.latest)
            key = (news.index, news.uuid, news.xid)
            self.faults[key] = self.faults.get(key, 0) + 1
            level = logging.ERROR if news.is_fatal else logging.WARNING
            logger.log(level, "GPU %d (%s): %s", news.index, news.uuid or "unknown", news.told)
        for listener in tuple(self._listeners):
            listener(news)

    def _remembered(self, sample: Gpus) -> Gpus:
        """With what broke a GPU since the start, though it answers as before."""
        if not self._broken:
            return sample
        gpus = (replace(gpu, broken_by=self._broken.get(gpu.index, "")) for gpu in sample.gpus)
        return replace(sample, gpus=tuple(gpus))
