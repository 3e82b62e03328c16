"""What is known of each replica beside its load: what its cache holds, whose home it is, its work, whether it fails.

Owned by the loop; does nothing by itself and is told the time. One book for all models; replicas by their ids.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llamahost.fleet.routing.breaker import Breaker
from llamahost.fleet.routing.policy import WORTH, Able, ReplicaView, best
from llamahost.fleet.routing.prefixes import N_CHARS_OF_TOKEN, NO_CHAIN, Chain, Held, n_common

N_SESSIONS = 8192
"""Whose homes are remembered; those that were not heard of the longest are forgotten."""

HALF_LIFE_S = 60.0
"""After which work counts half."""


class Ask(NamedTuple):
    """What a choice may know of a request. `session` is empty, or unique to a conversation of one model.

    `is_single`: it has one turn, so it may be the first of a conversation, or a page's question about one.
    `is_of_user`: the session is no conversation, but all that one user asks.
    """

    chain: Chain = NO_CHAIN
    session: str = ""
    is_single: bool = False
    is_of_user: bool = False


NO_ASK = Ask()


@dataclass(slots=True)
class _Known:
    epoch: int
    held: Held
    breaker: Breaker
    work: float = 0.0
    counted_at: float = 0.0

    def work_at(self, now: float) -> float:
        return self.work and self.work * 0.5 ** ((now - self.counted_at) / HALF_LIFE_S)


@dataclass(slots=True)
class _Session:
    """Of its prompts the starts alone: thousands of sessions may have thousands of messages each."""

    home: str
    chain: Chain
    aside: Chain = NO_CHAIN  # of the last question beside it


class Ledger:
    """Owned by the loop."""

    def __init__(self, *, n_failures: int = 2, open_s: float = 60.0, n_sessions: int = N_SESSIONS) -> None:
        self._n_failures = n_failures
        self._open_s = open_s
        self._n_sessions = n_sessions
        self._n_placed = 0
        self._known: dict[str, _Known] = {}
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def allow(self, *, n_failures: int, open_s: float) -> None:
        """What breakers take from now on, those too that there are."""
        self._n_failures, self._open_s = n_failures, open_s
        for known in self._known.values():
            known.breaker.n_failures, known.breaker.open_s = n_failures, open_s

    def keep(self, models: Container[str]) -> None:
        """Forget the replicas of all but these."""
        self._known = {id_: known for id_, known in self._known.items() if id_.rpartition("#")[0] in models}

    def pick(
        self, views: Sequence[ReplicaView], ask: Ask, now: float, *, tried: Collection[str] = (), is_last: bool = True
    ) -> int | None:
        """The index of the replica to take. None: none has room.

        Those that failed this request, those that stall, and those whose breaker is open, are passed over; `is_last`
        takes one of them rather than none: to spare others a replica that fails is not to end what they have.
        """
        session = self._sessions.get(ask.session) if ask.session else None
        home = session.home if session is not None else ""
        known_of, chain = self._known, ask.chain
        able: list[Able] = []
        barred: list[Able] = []
        least, most, oldest, youngest = 2**62, 0, 2**62, -1
        for index, (n_in_flight, n_room, is_ready, id_, epoch, n_slots, _, is_stalled) in enumerate(views):
            if not is_ready or n_room <= 0:
                continue
            known = known_of.get(id_)
            if known is None or known.epoch != epoch:
                known = self._of(views[index])
            n_held, lost_at = known.held.look(chain)
            if n_held < least:
                least = n_held
            if n_held > most:
                most = n_held
            if lost_at < oldest:
                oldest = lost_at
            if lost_at > youngest:
                youngest = lost_at
            work = known.work and known.work_at(now)
            one = (index, n_in_flight, work, n_held, id_ == home, n_slots, 0, lost_at)
            if is_stalled or id_ in tried or (known.breaker.has_failed and known.breaker.is_open(now)):
                barred.append(one)
            else:
                able.append(one)
        taken = able or barred if is_last else able
        if youngest > oldest and most - least >= WORTH:
            taken = [self._with_loss(views, each, chain, least, oldest) for each in taken]
        return best(taken)

    def _with_loss(self, views: Sequence[ReplicaView], one: Able, chain: Chain, least: int, oldest: int) -> Able:
        """Where a prompt is drawn to by what is held of it, and would push out what is younger than elsewhere."""
        index, n_in_flight, work, n_held, is_home, n_slots, _, lost_at = one
        if lost_at <= oldest or n_held - least < WORTH:
            return one
        n_lost = self._known[views[index].id].held.n_lost(chain)
        return index, n_in_flight, work, n_held, is_home, n_slots, n_lost, lost_at

    def is_open(self, view: ReplicaView, now: float) -> bool:
        return self._of(view).breaker.is_open(now)

    def is_aside(self, ask: Ask) -> bool:
        """Whether it asks something about the session's conversation (a title, tags) and goes not on with it."""
        if not ask.is_single or not ask.session:
            return False
        session = self._sessions.get(ask.session)
        if session is None or not ask.chain.digests:
            return False
        if _shares(session.chain, ask.chain):
            return False
        # A user whose prompts begin alike again and again is a program: what they begin with is worth keeping.
        return not (ask.is_of_user and _shares(session.aside, ask.chain))

    def began(self, view: ReplicaView, ask: Ask) -> int:
        """A request was given to it. Its ticket for `ended`."""
        known = self._of(view)
        ticket = known.breaker.enter()
        if self.is_aside(ask):
            self._sessions[ask.session].aside = _start(ask.chain)
            return ticket
        self._n_placed += 1
        known.held.place(ask.chain, self._n_placed)
        if ask.session:
            self._goes_on(ask, view.id)
        return ticket

    def _goes_on(self, ask: Ask, home: str) -> None:
        session = self._sessions.get(ask.session)
        if session is None:
            self._sessions[ask.session] = _Session(home, _start(ask.chain))
            while len(self._sessions) > self._n_sessions:
                self._sessions.popitem(last=False)
            return
        session.home = home
        if not _begins(session.chain, ask.chain):
            session.chain = _start(ask.chain)
        self._sessions.move_to_end(ask.session)

    def ended(self, view: ReplicaView, ticket: int, *, work: float, now: float, is_failure: bool | None) -> None:
        """It is over. `is_failure` None: that says nothing of the replica."""
        known = self._of(view)
        if known.epoch != view.epoch:
            return  # it was loaded anew meanwhile
        known.work = known.work_at(now) + work
        known.counted_at = now
        if is_failure is None:
            known.breaker.left(ticket)
        elif is_failure:
            known.breaker.failed(ticket, now)
        else:
            known.breaker.succeeded(ticket)

    def _of(self, view: ReplicaView) -> _Known:
        known = self._known.get(view.id)
        if known is None or known.epoch < view.epoch:
            breaker = Breaker(n_failures=self._n_failures, open_s=self._open_s)
            held = Held(view.n_slots, view.n_cells * N_CHARS_OF_TOKEN)
            known = self._known[view.id] = _Known(view.epoch, held, breaker)
        return known


def _start(chain: Chain) -> Chain:
    """As much of it as tells whether another shares it."""
    n = bisect_left(chain.ends, WORTH) + 1
    return Chain(chain.digests[:n], chain.ends[:n])


def _begins(start: Chain, chain: Chain) -> bool:
    """Whether this is the start of it, as `_start` cuts it. A digest is of all that is before it."""
    n = len(start.digests)
    return 0 < n <= len(chain.digests) and start.ends[-1] >= WORTH and start.digests[-1] == chain.digests[n - 1]


def _shares(known: Chain, chain: Chain) -> bool:
    """Whether they begin with the same, so long that it is worth keeping, or are one and the same."""
    n = n_common(known, chain)
    return n > 0 and (chain.ends[n - 1] >= WORTH or n == len(chain.digests))
