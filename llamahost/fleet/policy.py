"""Choose the replica for a request. Pure: sees only counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """What a choice needs to know of a replica. `n_room` is how many more requests it may take, waiting ones too."""

    n_in_flight: int
    n_room: int
    is_ready: bool = True


def choose(views: Sequence[ReplicaView]) -> int | None:
    """The index of the ready replica with the least in flight, the first of equals; None if none has room."""
    best: int | None = None
    for index, view in enumerate(views):
        if not view.is_ready or view.n_room <= 0:
            continue
        if best is None or view.n_in_flight < views[best].n_in_flight:
            best = index
    return best
