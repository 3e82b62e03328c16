"""Let those go elsewhere who would wait longer where they are: where a step does not return, or more wait than beside.

law: who was told something stays, and so does who has begun: what hangs one device may hang the next
law: who finds nobody else stays where it is, in its order, and is asked again at the next look
law: nobody comes back to whom it left while another is there, so nobody goes round

Owned by the loop. A replica that is loaded after others finds their queues full: a burst is given to whoever is first
there, since it is not known when, or whether, the next one comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from llamahost.fleet.crew.place import Place
from llamahost.fleet.routing.policy import excess

LOOK_S = 1.0
"""From one look to the next: little beside the half a minute after which a step counts as stalled."""


class Queues:
    """A look each LOOK_S, from `start` to `close`."""

    def __init__(self, places: Callable[[], Iterable[Place]]) -> None:
        self._places = places
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._tick)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        for place in self._places():
            for each in place.running.values():
                if each.is_stalled():
                    each.replica.let_go()
            self.even(place)

    def even(self, place: Place) -> None:
        """Have them wait where fewer do."""
        if len(place.running) > 1:
            for id_, n in _excess(place).items():
                if n:
                    place.running[id_].replica.spare(partial(_excess_of, place, id_))

    def _tick(self) -> None:
        self.look()
        self.start()


def _excess(place: Place) -> dict[str, int]:
    """By replica, how many that wait there would better wait beside it."""
    return dict(zip(place.running, excess(place.views()), strict=True))


def _excess_of(place: Place, id_: str) -> int:
    return _excess(place).get(id_, 0)
