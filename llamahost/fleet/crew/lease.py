"""A replica that somebody uses, and that stays in memory meanwhile. Knows who gives it; the fleet knows which."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from llamahost.fleet.crew.crew import Crew
from llamahost.fleet.crew.place import Place, Running
from llamahost.fleet.replica.replica import Replica


class Lease:
    """Owned by the task of one request: `async with lease as replica`. Entering waits for `grant`, and raises as it."""

    __slots__ = ("_began", "_crew", "_grant", "_n_jobs", "_place", "_running")

    _place: Place
    _running: Running

    def __init__(self, crew: Crew, n_jobs: int, grant: Callable[[], Awaitable[tuple[Place, Running]]]) -> None:
        self._crew = crew
        self._n_jobs = n_jobs
        self._grant = grant
        self._began = 0.0

    async def __aenter__(self) -> Replica:
        self._place, self._running = await self._grant()
        self._began = self._crew.now()
        return self._running.replica

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._crew.give_back(self._place, self._running, self._n_jobs, self._began)
