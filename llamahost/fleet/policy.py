"""Choose the replica for a request. Pure: sees counts, and what is believed of their caches; knows no request.

law: the chosen one is ready and has room
law: its load is near the least: within a quarter of its slots, or NEAR
law: among the near ones, a start of the prompt that is worth having decides; then the session's home; then load, work
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

NEAR = 2
"""Requests in flight beyond the least that a held prefix is worth: a wait of a step or two, where slots are free."""

WORTH = 256
"""Characters of a held start, beyond what others hold, from which it counts: some 64 tokens, a fraction of a step."""

EVEN = 1.15
GRAIN = 2.0
"""A replica that was given EVEN times the mean work of late, and GRAIN, gets no more for what its cache holds."""


class ReplicaView(NamedTuple):
    """What a choice needs to know of a replica. `n_room` is how many more requests it may take, waiting ones too.

    `epoch` tells one loading of `id` from the next, which is greater and remembers nothing. `n_cells` are the tokens
    that its KV holds. `is_stalled`: a step of its device does not return.
    """

    n_in_flight: int
    n_room: int
    is_ready: bool = True
    id: str = ""
    epoch: int = 0
    n_slots: int = 1
    n_cells: int = 2**31
    is_stalled: bool = False


class Regard(NamedTuple):
    """What speaks for and against a replica beside its load.

    `n_held` characters of the prompt's start are believed to be in its cache; `work` is what it was given of late, in
    any unit that is the same for all; `is_home`: it served this session last.
    """

    n_held: int = 0
    work: float = 0.0
    is_home: bool = False


Pick: TypeAlias = Callable[[Sequence[ReplicaView]], int | None]

NO_REGARD = Regard()


def choose(views: Sequence[ReplicaView], regards: Sequence[Regard] = ()) -> int | None:
    """The index of the replica to take; None if none has room. `regards` is empty, or one for each view."""
    able = [index for index, view in enumerate(views) if view.is_ready and view.n_room > 0]
    if len(able) < 2:
        return able[0] if able else None
    loads = [view.n_in_flight for view in views]
    if not regards:
        return min(able, key=loads.__getitem__)
    works = [regard.work for regard in regards]
    held = [regard.n_held for regard in regards]
    taken = _kept(views, regards, able, loads, works, held) or able
    if len(taken) == 1:
        return taken[0]
    least = min([loads[index] for index in taken])
    return min([index for index in taken if loads[index] == least], key=works.__getitem__)


def _kept(
    views: Sequence[ReplicaView],
    regards: Sequence[Regard],
    able: Sequence[int],
    loads: Sequence[int],
    works: Sequence[float],
    held: Sequence[int],
) -> list[int]:
    """Of those that are not much busier than the least busy, now and of late: whose cache, or whose session it is."""
    least = min([loads[index] for index in able])
    limit = EVEN * sum([works[index] for index in able]) / len(able) + GRAIN
    near = [
        index
        for index in able
        if works[index] <= limit and loads[index] - least <= max(NEAR, views[index].n_slots // 4)
    ]
    n_best = max([held[index] for index in near], default=0)
    if n_best - min([held[index] for index in able]) >= WORTH:
        return [index for index in near if held[index] > n_best - WORTH]
    return [index for index in near if regards[index].is_home]


@dataclass(frozen=True, slots=True)
class Wants:
    """How a lease is to be granted: `pick` is asked at that moment, with a view of every replica of the model.

    Of those that wait for one, a higher `priority` goes first; `deadline` is by the loop's clock. `waits` says whether
    it waits for a model that loads; None leaves that to the manifest.
    """

    pick: Pick = choose
    priority: int = 0
    deadline: float | None = None
    waits: bool | None = None


ANYTHING = Wants()
