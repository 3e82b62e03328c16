"""Send a script to one server and measure. Closed loop: so many clients; open loop: so many arrivals a second."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass

from llamahost.bench.client import Outcome, Target, stream
from llamahost.bench.workload import Conversation


@dataclass(frozen=True, slots=True)
class Run:
    """One script at one server. `n_skipped` requests were not begun before the time was up."""

    outcomes: tuple[Outcome, ...]
    wall_s: float
    client_cpu_s: float
    n_skipped: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """No request begins after `seconds`; none takes longer than `timeout_s`."""

    seconds: float
    timeout_s: float


async def closed_loop(
    target: Target, path: str, conversations: Sequence[Conversation], n_clients: int, limits: Limits, *, in_waves: bool
) -> Run:
    """`n_clients` clients, each with its next conversation as soon as it has finished one."""
    outcomes: list[Outcome] = []
    ends = time.perf_counter() + limits.seconds

    async def client(mine: list[Conversation]) -> None:
        """Takes from the list's end; clients of a run share one list."""
        while mine:
            for body in mine.pop().turns:
                if time.perf_counter() >= ends:
                    return
                outcomes.append(await stream(target, path, body, timeout_s=limits.timeout_s))

    step = n_clients if in_waves else max(1, len(conversations))
    with _Stopwatch() as watch:
        for start in range(0, len(conversations), step):
            mine = list(reversed(conversations[start : start + step]))
            async with asyncio.TaskGroup() as group:
                for _ in range(n_clients):
                    group.create_task(client(mine))
    return watch.run(outcomes, conversations)


async def open_loop(
    target: Target, path: str, conversations: Sequence[Conversation], starts: Sequence[float], limits: Limits
) -> Run:
    """Conversation i begins `starts[i]` seconds after the start, however busy the server is."""
    outcomes: list[Outcome] = []

    async def visit(conversation: Conversation, begun: float, start: float) -> None:
        await asyncio.sleep(start - (time.perf_counter() - begun))
        due: float | None = begun + start
        for body in conversation.turns:
            if time.perf_counter() - begun >= limits.seconds:
                return
            outcomes.append(await stream(target, path, body, timeout_s=limits.timeout_s, due=due))
            due = None

    with _Stopwatch() as watch:
        async with asyncio.TaskGroup() as group:
            for conversation, start in zip(conversations, starts, strict=True):
                group.create_task(visit(conversation, watch.begun, start))
    return watch.run(outcomes, conversations)


class _Stopwatch:
    """Wall time and this process's CPU time, without a garbage collection in between."""

    def __enter__(self) -> _Stopwatch:
        gc.collect()
        gc.disable()
        self.begun = time.perf_counter()
        self._cpu = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu_s = time.process_time() - self._cpu
        self._wall_s = time.perf_counter() - self.begun
        gc.enable()

    def run(self, outcomes: Sequence[Outcome], conversations: Sequence[Conversation]) -> Run:
        n_asked = sum(len(conversation.turns) for conversation in conversations)
        return Run(tuple(outcomes), self._wall_s, self._cpu_s, n_asked - len(outcomes))
