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
from operator import itemgetter
from typing import NamedTuple, TypeAlias

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


Able: TypeAlias = tuple[int, int, float, int, bool, int, int, int]
"""One that is ready and has room: index, load, work, characters held, whether it is home, slots, characters lost and
since when. A plain tuple, since one is made for each replica at each choice.
"""

_LOAD_THEN_WORK = itemgetter(1, 2)


def choose(views: Sequence[ReplicaView], regards: Sequence[Regard] = ()) -> int | None:
    """The index of the replica to take; None if none has room. `regards` is empty, or one for each view."""
    able: list[Able] = []
    for index, (view, regard) in enumerate(zip(views, regards or repeat(NO_REGARD), strict=False)):
        if view.is_ready and view.n_room > 0:
            n_held, work, is_home, n_lost, lost_at = regard
            able.append((index, view.n_in_flight, work, n_held, is_home, view.n_slots, n_lost, lost_at))
    return best(able)


def best(able: list[Able]) -> int | None:
    """The index of one of these; None where there is none."""
    if len(able) < 2:
        return able[0][0] if able else None
    return min(_kept(able) or able, key=_LOAD_THEN_WORK)[0]


def _kept(able: list[Able]) -> list[Able]:
    """Of those that are not much busier than the least busy, now and of late: whose cache, or whose session it is."""
    _, least, work, n_by_all, *_ = able[0]
    for _, load, more, n_held, *_ in able[1:]:
        work += more
        if load < least:
            least = load
        if n_held < n_by_all:
            n_by_all = n_held
    limit = EVEN * work / len(able) + GRAIN
    near: list[Able] = []
    n_best = n_lost_by_any = 0
    for each in able:
        _, load, work, n_held, _, n_slots, n_lost, _ = each
        if work <= limit and load - least <= max(NEAR, n_slots // 4):
            near.append(each)
            n_lost_by_any += n_lost
            if n_held > n_best:
                n_best = n_held
    if n_lost_by_any:
        oldest = min([each[7] for each in near])
        worths = [each[3] - TURNS * each[6] * (each[7] > oldest) for each in near]
        n_best, n_by_all = max(worths), min(n_by_all, *worths)
        if n_best - n_by_all >= WORTH:
            return [each for each, worth in zip(near, worths, strict=True) if worth > n_best - WORTH]
    elif n_best - n_by_all >= WORTH:
        return [each for each in near if each[3] > n_best - WORTH]
    return [each for each in near if each[4]]


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
