"""Tell what becomes of models: see what has changed since it was last told, and wake who waits for a model to settle.

Knows how places stand; changes nothing of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from llamahost.core.observe import FleetEvent, ModelChanged
from llamahost.fleet.crew.place import Place
from llamahost.fleet.crew.status import State
from llamahost.fleet.memory import residents

logger = logging.getLogger("llamahost.fleet")

_UNSETTLED = ("pulling", "loading", "draining")


class Telling:
    """Owned by the loop."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[FleetEvent], None]] = []
        self._told: dict[str, State] = {}  # of models by name, of replicas by id

    @property
    def is_heard(self) -> bool:
        return bool(self._listeners)

    def listen(self, callback: Callable[[FleetEvent], None]) -> Callable[[], None]:
        """Returns what ends that."""
        self._listeners.append(callback)

        def end() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return end

    def state_told(self, name: str) -> State | None:
        return self._told.get(name)

    def note(self, places: Iterable[Place]) -> None:
        """See what changed, tell it, and wake whoever waits for it."""
        seen: dict[str, State] = {}
        for place in tuple(places):
            state, model = place.state, place.model
            name = model.spec.name
            (place.settled.clear if state in _UNSETTLED else place.settled.set)()
            for record in model.replicas:
                seen[record.id] = of_replica = _state_of(record)
                if self._told.get(record.id) != of_replica:
                    self.tell(ModelChanged(name, record.id, of_replica, record.reason))
            seen[name] = state
            if self._told.get(name, "unloaded") != state:
                self.tell(ModelChanged(name, "", state, "" if state == "ready" else place.reason))
        for id_ in self._told.keys() - seen.keys():
            if "#" in id_:
                self.tell(ModelChanged(id_.rpartition("#")[0], id_, "unloaded", ""))
        self._told = seen

    def tell(self, event: FleetEvent) -> None:
        for callback in tuple(self._listeners):
            try:
                callback(event)
            except Exception:
                logger.exception("a listener failed")


def _state_of(record: residents.Replica) -> State:
    if record.reason:
        return "failed"
    return "draining" if record.state == "unloading" else record.state
