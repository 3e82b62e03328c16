"""Choose the replica for a request. Pure: sees counts, and what is believed of their caches; knows no request.

law: the chosen one is ready and has room
law: its load is near the least: within a quarter of its slots, or NEAR
law: among the near ones, a start of the prompt that is worth having decides; then the session's home; then load, work
law: what it would push out counts against it, if another near one would push out what is older, or nothing
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple, TypeAlias, TypeVar

from llamahost.fleet.routing.restored import Restored

NEAR = 2
"""Requests in flight beyond the least that a held prefix is worth: a wait of a step or two, where slots are free."""

WORTH = 256
"""Characters of a held start, beyond what others hold, from which it counts: some 64 tokens, a fraction of a step."""

TURNS = 8
"""How often what is pushed out is computed anew: with each turn of its conversation that is still to come. A start that
is shared is computed once more on each replica, and no more."""

EVEN = 1.15
GRAIN = 2.0
"""A replica that was given EVEN times the mean work of late, and GRAIN, gets no more for what its cache holds."""


class ReplicaView(NamedTuple):
    """What a choice needs to know of a replica. `n_room` is how many more requests it may take, waiting ones too.

    `epoch` tells one loading of `id` from the next, which is greater and remembers nothing. `n_cells` are the tokens
    that its KV holds. `is_stalled`: a step of its device does not return. `restored` is what its slots were given back
    when it was loaded.
    """

    n_in_flight: int
    n_room: int
    is_ready: bool = True
    id: str = ""
    epoch: int = 0
    n_slots: int = 1
    n_cells: int = 2**31
    is_stalled: bool = False
    restored: tuple[Restored, ...] = ()


class Regard(NamedTuple):
    """What speaks for and against a replica beside its load.

    `n_held` characters of the prompt's start are believed to be in its cache; `work` is what it was given of late, in
    any unit that is the same for all; `is_home`: it served this session last. `n_lost` characters of others would leave
    its cache for this prompt, which were placed in turn `lost_at`; -1 where nothing would.
    """

    n_held: int = 0
    work: float = 0.0
    is_home: bool = False
    n_lost: int = 0
    lost_at: int = -1


Pick: TypeAlias = Callable[[Sequence[ReplicaView]], int | None]

NO_REGARD = Regard()


Cache = TypeVar("Cache")

Able: TypeAlias = tuple[int, float, int, int, Cache]
"""One that is ready and has room: load, work, index, slots, cache. A plain tuple, since each choice makes one of each,
and the least of them is the one that has the least to do, now and then of late."""


def choose(views: Sequence[ReplicaView], regards: Sequence[Regard] = ()) -> int | None:
    """The index of the replica to take; None if none has room. `regards` is empty, or one for each view."""
    able: list[Able[None]] = []
    for index, (view, regard) in enumerate(zip(views, regards or repeat(NO_REGARD), strict=False)):
        if view.is_ready and view.n_room > 0:
            able.append((view.n_in_flight, regard.work, index, view.n_slots, None))
    if not able:
        return None
    near = those_near(able)
    if len(near) < 2 or not regards:
        return least(near or able)
    return least(drawn(near, [regards[each[2]] for each in near]))


def least(able: Sequence[Able[Cache]]) -> int:
    """The index of the one that has the least to do."""
    return min(able)[2]


def those_near(able: Sequence[Able[Cache]]) -> list[Able[Cache]]:
    """Those that are not much busier than the least busy, now and of late. That may be nobody."""
    fewest, work = min(able)[0], 0.0
    for each in able:
        work += each[1]
    limit = EVEN * work / len(able) + GRAIN
    return [
        each for each in able if each[1] <= limit and (each[0] <= fewest + NEAR or each[0] <= fewest + each[3] // 4)
    ]


def drawn(near: list[Able[Cache]], regards: Sequence[Regard]) -> list[Able[Cache]]:
    """Those whose cache draws the request, else whose session it is, else all. `regards`: one for each."""
    worths = [regard.n_held for regard in regards]
    n_by_all = min(worths)
    if any(regard.n_lost for regard in regards):
        oldest = min([regard.lost_at for regard in regards])
        worths = [r.n_held - TURNS * r.n_lost * (r.lost_at > oldest) for r in regards]
        n_by_all = min(n_by_all, *worths)
    n_best = max(worths)
    if n_best - n_by_all >= WORTH:
        return [each for each, worth in zip(near, worths, strict=True) if worth > n_best - WORTH]
    return [each for each, regard in zip(near, regards, strict=True) if regard.is_home] or near


def excess(views: Sequence[ReplicaView]) -> list[int]:
    """Of each, how many of those that wait there would find another that is not near it in load, and has fewer."""
    loads = [view.n_in_flight for view in views]
    able = [k for k, view in enumerate(views) if view.is_ready and not view.is_stalled]
    leave = [0] * len(views)
    while True:
        waited_for = [k for k in able if loads[k] > views[k].n_slots]
        if not waited_for:
            return leave
        most = max(waited_for, key=loads.__getitem__)
        least = min(able, key=loads.__getitem__)
        if loads[most] - loads[least] <= max(NEAR, views[most].n_slots // 4):
            return leave
        leave[most] += 1
        loads[most] -= 1
        loads[least] += 1


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
