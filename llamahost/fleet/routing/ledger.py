"""What is known of each replica beside its load: what its cache holds, whose home it is, its work, whether it fails.

Owned by the loop; does nothing by itself and is told the time. One book for all models; replicas by their ids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.vectors import EmbedRequest, RerankRequest
from llamahost.fleet.routing.breaker import Breaker
from llamahost.fleet.routing.policy import WORTH, Able, Regard, ReplicaView, drawn, least, those_near
from llamahost.fleet.routing.prefixes import N_CHARS_OF_TOKEN, NO_CHAIN, Chain, Held, chain_of
from llamahost.fleet.routing.restored import Restored

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
        self._restored: dict[str, list[Restored]] = {}  # nobody went on with it yet, by replica; the last used last
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def allow(self, *, n_failures: int, open_s: float) -> None:
        """What breakers take from now on, those too that there are."""
        self._n_failures, self._open_s = n_failures, open_s
        for known in self._known.values():
            known.breaker.n_failures, known.breaker.open_s = n_failures, open_s

    def keep(self, models: Container[str]) -> None:
        """Forget the replicas of all but these."""
        self._known = {id_: known for id_, known in self._known.items() if id_.rpartition("#")[0] in models}
        self._restored = {id_: left for id_, left in self._restored.items() if id_ in self._known}

    def pick(
        self,
        views: Sequence[ReplicaView],
        ask: Ask,
        now: float,
        *,
        tried: Collection[str] = (),
        is_last: bool = True,
        request: ChatRequest | CompletionRequest | EmbedRequest | RerankRequest | None = None,
    ) -> int | None:
        """The index of the replica to take. None: none has room.

        Those that failed this request, those that stall, and those whose breaker is open, are passed over; `is_last`
        takes one of them rather than none: to spare others a replica that fails is not to end what they have.
        """
        able: list[Able[Held]] = []
        barred: list[Able[Held]] = []
        known_of = self._known
        for index, (n_in_flight, n_room, is_ready, id_, epoch, n_slots, _, is_stalled, _) in enumerate(views):
            if not is_ready or n_room <= 0:
                continue
            known = known_of.get(id_)
            if known is None or known.epoch != epoch:
                known = self._of(views[index])
            one = (n_in_flight, known.work and known.work_at(now), index, n_slots, known.held)
            if is_stalled or id_ in tried or known.breaker.is_open(now):
                barred.append(one)
            else:
                able.append(one)
        taken = able or barred if is_last else able
        if len(taken) < 2:
            return taken[0][2] if taken else None
        if self._restored and isinstance(request, ChatRequest | CompletionRequest):
            self._recognise([views[each[2]].id for each in taken], request)
        near = those_near(taken)
        if len(near) > 1:
            near = self._drawn(near, views, ask)
        return least(near or taken)

    def _recognise(self, ids: Sequence[str], request: ChatRequest | CompletionRequest) -> None:
        """What one of them was given back of this conversation counts as though it had been placed there."""
        found = [(each.begun(request), id_, each) for id_ in ids for each in self._restored.get(id_, ())]
        begun, id_, state = max(found, key=lambda each: each[0][0] if each[0] else 0, default=(None, "", None))
        chain = chain_of(begun[1]) if begun is not None else NO_CHAIN
        if chain.n_chars >= WORTH:
            self._n_placed += 1
            self._known[id_].held.place(chain, self._n_placed)
            self._forget(id_, lambda each: each is state)

    def _forget(self, id_: str, goes: Callable[[Restored], bool]) -> None:
        left = [each for each in self._restored.pop(id_, ()) if not goes(each)]
        if left:
            self._restored[id_] = left

    def _drawn(self, near: list[Able[Held]], views: Sequence[ReplicaView], ask: Ask) -> list[Able[Held]]:
        """Those that hold so much of its prompt that it should go there, or served its session; else all."""
        chain = ask.chain
        deepest = [each[4].deepest(chain) for each in near]
        n_held = [chain.ends.get(digest, 0) for digest in deepest]
        n_best, n_by_all = max(n_held), min(n_held)
        if n_best >= WORTH and (n_best > n_by_all or 2 * n_best >= chain.n_chars):
            # Where the conversation goes on, in its slot, nothing is lost and nothing else is worth more.
            most = deepest[n_held.index(n_best)]
            going_on = [each for each in near if each[4].ends_with(most)]
            if len(going_on) == 1:
                return going_on
        session = self._sessions.get(ask.session) if ask.session else None
        home = session.home if session is not None else ""
        if n_best - n_by_all < WORTH:
            return [each for each in near if views[each[2]].id == home] or near if home else near
        goes_at = [each[4].lost_at(chain, digest) for each, digest in zip(near, deepest, strict=True)]
        oldest = min(goes_at)
        regards: list[Regard] = []
        for each, digest, n, at in zip(near, deepest, n_held, goes_at, strict=True):
            # What it would push out counts where it is drawn to, and would push out what is younger than elsewhere.
            n_lost = each[4].n_lost(chain, digest) if at > oldest and n - n_by_all >= WORTH else 0
            regards.append(Regard(n, each[1], views[each[2]].id == home, n_lost, at))
        return drawn(near, regards)

    def is_open(self, view: ReplicaView, now: float) -> bool:
        return self._of(view).breaker.is_open(now)

    def is_aside(self, ask: Ask) -> bool:
        """Whether it asks something about the session's conversation (a title, tags) and goes not on with it."""
        if not ask.is_single or not ask.session:
            return False
        session = self._sessions.get(ask.session)
        if session is None or not ask.chain.ends:
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
        if (
            self._restored
            and view.id in self._restored
            and len(known.held) + len(self._restored[view.id]) > view.n_slots
        ):
            oldest = self._restored[view.id][0]
            self._forget(view.id, lambda each: each is oldest)
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

    def answers(self, view: ReplicaView, ticket: int) -> None:
        """Its first token is told."""
        known = self._known.get(view.id)
        if known is not None and known.epoch == view.epoch:
            known.breaker.answers(ticket)

    def left(self, view: ReplicaView, ask: Ask) -> None:
        """Nothing of it was begun there, where it was given; `ended` is told too."""
        known = self._known.get(view.id)
        if known is not None and known.epoch == view.epoch:
            known.held.take_back(ask.chain)

    def ended(self, view: ReplicaView, ticket: int, *, work: float, now: float, is_failure: bool | None) -> None:
        """It is over. `is_failure` None: that says nothing of the replica."""
        known = self._known.get(view.id)
        if known is None or known.epoch != view.epoch:
            return  # it was forgotten meanwhile, or loaded anew
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
            self._restored.pop(view.id, None)
            if view.restored:
                self._restored[view.id] = list(view.restored)
        return known


def _start(chain: Chain) -> Chain:
    """As much of it as tells whether another shares it."""
    ends: dict[int, int] = {}
    for digest, end in chain.ends.items():
        ends[digest] = end
        if end >= WORTH:
            return Chain(ends, digest, end)
    return chain


def _begins(start: Chain, chain: Chain) -> bool:
    """Whether this is the start of it, as `_start` cuts it."""
    return start.n_chars >= WORTH and start.whole in chain.ends


def _shares(start: Chain, chain: Chain) -> bool:
    """Whether they begin with the same, so long that it is worth keeping, or are one and the same."""
    return _begins(start, chain) or chain.whole in start.ends
