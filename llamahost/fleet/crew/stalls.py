"""Let those go elsewhere who wait where a step does not return. Owned by the loop; who may go, and whereto, they know.

law: who was told something stays, and so does who has a part in that step: what hangs one device may hang the next
law: who finds nobody else stays where it is, in its order, and is asked again at the next look
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from llamahost.fleet.crew.place import Running

LOOK_S = 1.0
"""From one look to the next: little beside the half a minute after which a step counts as stalled."""


class Stalls:
    """A look each LOOK_S, from `start` to `close`."""

    def __init__(self, running: Callable[[], Iterable[Running]]) -> None:
        self._running = running
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._tick)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        for each in self._running():
            if each.is_stalled():
                each.replica.let_go()

    def _tick(self) -> None:
        self.look()
        self.start()
