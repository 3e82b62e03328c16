"""End a fleet: what runs may finish, what is left is told, models close in order, threads last. Decides nothing else.

Each part has its patience, since a step, a load or a client may never end.
"""

from __future__ import annotations

import asyncio
import contextlib

from llamahost.core.errors import Unavailable
from llamahost.fleet.crew.crew import Crew

LOAD_PATIENCE_S = 5.0
"""For a load that runs: it cannot be stopped, but need not be waited for either."""
LEASE_PATIENCE_S = 0.5
"""For leases whose streams were ended: their holders may be waiting for a client."""
KEEP_PATIENCE_S = 20.0
"""For prefixes that are written to files, where that is asked."""
CLOSE_PATIENCE_S = 5.0
"""For a step that does not return."""


async def close(crew: Crew, drain_s: float) -> None:
    """Give leases `drain_s`, end the streams that are left with Unavailable, unload all, end the threads."""
    crew.is_closed = True
    crew.residency.end()
    crew.fetches.close()
    crew.queues.close()
    if crew.timer is not None:
        crew.timer.cancel()
    places = tuple(crew.places.values())
    if drain_s > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                for place in places:
                    await place.idle.wait()
    if crew.loading is None:
        return
    crew.loading.is_closed = True
    for place in places:
        for running in place.running.values():
            running.replica.refuse(Unavailable("the server is shutting down"))
    loads = tuple(crew.tasks)
    if loads:
        await asyncio.wait(loads, timeout=LOAD_PATIENCE_S)
    for task in loads:
        task.cancel()
    await asyncio.gather(*loads, return_exceptions=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEASE_PATIENCE_S):
            for place in places:
                await place.idle.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KEEP_PATIENCE_S):
            await crew.keep_all()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_PATIENCE_S):
            for place in places:
                for id_ in tuple(place.running):
                    await crew.close_replica(id_)
            for task in tuple(crew.closes):
                await asyncio.shield(task)
    await crew.loading.close(CLOSE_PATIENCE_S)
    for place in places:
        for id_ in tuple(place.gone):
            place.forget(id_)
