"""Who answers a request: the models that its name stands for, one after the other, until one has begun to.

law: nothing is tried again once its first token was told
law: a request ends with an answer, or with what was said by who came nearest to one, of several the first
law: going on to another waits for nobody; only who is asked twice is given a moment, and never beyond the deadline

Knows names, routes and what the fleet tells; the choice of a replica is policy's, the memory for it the ledger's.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, TypeAlias

from llamahost.core.errors import GenerationFailed, LlamahostError, ModelNotFound, NotBegun, NotRead
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.vectors import EmbedRequest, RerankRequest
from llamahost.fleet.replica.replica import Replica
from llamahost.fleet.routing.ledger import NO_ASK, Ask, Ledger
from llamahost.fleet.routing.mendable import MENDABLE, NOT_ITS_FAULT, hope
from llamahost.fleet.routing.names import Names
from llamahost.fleet.routing.policy import ReplicaView, Wants
from llamahost.fleet.routing.prefixes import N_CHARS_OF_TOKEN, NO_CHAIN, chain_of
from llamahost.fleet.routing.rates import Answered, Rates
from llamahost.fleet.routing.route import Outlook, finish_s, order
from llamahost.fleet.routing.seen import Leases, Seen
from llamahost.fleet.routing.trials import Trials
from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from llamahost.fleet.settings.route_spec import RouteSpec

Kind = Literal["chat", "completion", "embedding", "rerank"]
Request: TypeAlias = ChatRequest | CompletionRequest | EmbedRequest | RerankRequest

AUTO = "auto"
"""Stands for any model that can answer such a request, as no name does."""

PAUSE_S = 0.05
"""Before the same replica is asked again: a random part of it, doubled each time."""

_NOBODY = ReplicaView(0, 0, is_ready=False)


_DOES: dict[Kind, str] = {
    "chat": "chats",
    "completion": "completes text",
    "embedding": "makes embeddings",
    "rerank": "scores documents",
}


class Router:
    """Owned by the loop."""

    def __init__(
        self,
        fleet: Leases,
        manifest: Manifest,
        *,
        is_strict: bool = False,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.rates = Rates()
        self.fleet = fleet
        self._is_strict = is_strict
        self._specs: dict[str, ModelSpec] = {}
        self._had: set[str] = set()  # names of models while this runs
        self.draw = draw
        self.views: dict[str, Sequence[ReplicaView]] = {}  # of each model, as they were when it was last asked
        self.ledger = Ledger()
        self.going: Counter[str] = Counter()  # answers on their way to a model, from where they only waited
        self.adopt(manifest)

    def adopt(self, manifest: Manifest) -> None:
        """These are the models and routes from now on."""
        self._had |= self._specs.keys()
        self._specs = {spec.name: spec for spec in manifest.models}
        self._routes = {route.name: route for route in manifest.routes}
        self._trials = Trials()
        named: tuple[ModelSpec | RouteSpec, ...] = (*manifest.models, *manifest.routes)
        self._names = Names(((name, each.name) for each in named for name in (each.name, *each.aliases)), self._had)
        self.settings = manifest.server
        self.views = {name: views for name, views in self.views.items() if name in self._specs}
        self.rates.keep(self._specs)
        self.ledger.keep(self._specs)
        self.ledger.allow(n_failures=self.settings.breaker_failures, open_s=self.settings.breaker_s)

    @property
    def routes(self) -> tuple[RouteSpec, ...]:
        return tuple(self._routes.values())

    def tries(self, request: Request, kind: Kind, n_jobs: int) -> Tries:
        """The tries of one request. Raises ModelNotFound."""
        route, models = self._candidates(request, kind)
        return Tries(self, request, models, n_jobs, route=route)

    def timeout_s(self, given: float | None, model: str) -> float | None:
        """What the request says, else its model, else the server."""
        spec = self._specs.get(model)
        return given or (spec.timeout_s if spec else None) or self.settings.timeout_s

    def named(self, name: str) -> str:
        """The model, or the first of a route, whose vocabulary is meant. Raises ModelNotFound."""
        found = self._found(name)
        return self._routes[found].models[0] if found in self._routes else found

    def _found(self, name: str) -> str:
        found = self._names.find(name)
        if found is not None:
            return found
        if len(self._specs) == 1 and (not name or not self._is_strict):
            return next(iter(self._specs))
        if not self._specs:
            return name  # the fleet says that there is none
        raise ModelNotFound(name, nearest=self._names.nearest(name), known=self._names.named)

    def _candidates(self, request: Request, kind: Kind) -> tuple[str, tuple[str, ...]]:
        """The route that is meant, if one is, and the models to be asked, in order."""
        name = request.model
        if name.lower() in ("", AUTO) and len(self._specs) > 1 and self._names.find(name) is None:
            return "", self._any(kind, fills_in=isinstance(request, CompletionRequest) and request.fills_in)
        found = self._found(name)
        spec = self._routes.get(found)
        if spec is None:
            return "", (found,)
        outlooks = {each.name: self._outlook(each) for each in self.fleet.seen_of(spec.models)}
        n_prompt, n_max, key = 0, None, ""
        if isinstance(request, EmbedRequest | RerankRequest):
            key = request.user
        else:
            generation = request.generation
            n_max, key = generation.max_tokens, generation.session_id or generation.user
            if spec.strategy == "speed":
                n_prompt = chain_of(request).n_chars // N_CHARS_OF_TOKEN
        if not key and spec.strategy == "split":
            key = repr(self.draw())
        models = order(spec, outlooks, key=key, n_prompt=n_prompt, n_max=n_max)
        if spec.strategy == "speed":
            able = {name: finish_s(each, n_prompt, n_max) for name, each in outlooks.items() if each.can_answer}
            models = self._trials.ordered(found, models, able)
        return found, models

    def _any(self, kind: Kind, *, fills_in: bool) -> tuple[str, ...]:
        """Whoever can answer such a request: ready first, then with a template, a free slot, the fewest requests.

        Nothing is loaded for it as long as one is there, or on its way.
        """
        seen = self.fleet.seen()
        there = [] if fills_in else [each for each in seen if each.is_ready or each.is_coming]
        suited = [each for each in there if self._suits(each, kind)]  # few, where there are thousands
        suited = suited or [each for each in seen if self._suits(each, kind)]
        if not suited:
            raise ModelNotFound(AUTO, reason=f"no model here {_DOES[kind]}")
        if fills_in:  # one that cannot is asked where there is no other, and says so
            suited = [each for each in suited if each.known is None or each.known.fills_in] or suited
        suited = [each for each in suited if each.is_ready or each.is_coming] or suited
        suited.sort(key=lambda seen: self._rank(seen, kind))
        return tuple(seen.name for seen in suited)

    def _rank(self, seen: Seen, kind: Kind) -> tuple[bool, bool, bool, int]:
        if not seen.is_ready or not self._outlook(seen).can_answer:
            return True, _lacks_template(seen, kind), False, 0
        return False, _lacks_template(seen, kind), seen.n_in_flight >= seen.n_slots, seen.n_in_flight

    def _suits(self, seen: Seen, kind: Kind) -> bool:
        """By what it can do, or where it was not loaded yet by what it is for, as far as that is known."""
        known = seen.known
        if known is None:
            return seen.task in ("auto", kind) or (seen.task == "chat" and kind == "completion")
        if kind in ("chat", "completion"):
            return known.generates
        return known.pooling is not None and (known.pooling == "rank") == (kind == "rerank")

    def n_could_take(self, views: Sequence[ReplicaView], tried: Container[str]) -> int:
        """How many more answers those of them have room for that are well, but for those that were tried."""
        now = asyncio.get_running_loop().time()
        able = [each for each in views if each.is_ready and each.n_room > 0 and not each.is_stalled]
        return sum([each.n_room for each in able if each.id not in tried and not self.ledger.is_open(each, now)])

    def _outlook(self, seen: Seen) -> Outlook:
        rate, views = self.rates.of(seen.name), self.views.get(seen.name, ())
        now = asyncio.get_running_loop().time()
        is_barred = bool(views) and all(self.ledger.is_open(view, now) for view in views)
        return Outlook(
            seen.is_ready and seen.n_room > 0 and not is_barred,
            seen.n_in_flight,
            seen.n_slots,
            rate.prompt_per_s,
            rate.tokens_per_s,
            rate.n_generated,
            rate.answer_s,
        )


class Tries:
    """Owned by the task of one request.

    while True:
        async with tries as replica:  # the next one; leaves quietly after a failure that another may mend
            ...
            tries.begin()  # from here on, it is this one or none
            return
    """

    def __init__(self, router: Router, request: Request, models: tuple[str, ...], n_jobs: int, *, route: str) -> None:
        self.route = route
        self.model = models[0]
        self.replica = ""
        self.n_tries = 0
        self.has_begun = False
        self.is_aside = False  # a question about a conversation, whose slot may go first
        self._router = router
        self._models = models
        self._n_jobs = n_jobs
        self._clock = asyncio.get_running_loop().time
        self._arrived = self._clock()
        said = request if isinstance(request, EmbedRequest | RerankRequest) else request.generation
        self._given_s, self._priority, self._waits = said.timeout_s, said.priority, said.waits
        self._next = 0  # in models
        self._n_failed = 0
        self._tried: set[str] = set()
        self._goes_to = ""  # a model, as whoever let it go was told
        self._view = _NOBODY
        self._first_error: LlamahostError | None = None
        self._failure: LlamahostError | None = None
        self._request: Request | None = request  # until somebody has begun: it may be half a megabyte
        self._ask = self._asked(request)
        self.timeout_s: float | None = None  # of who is asked now, from the request's arrival
        self.deadline: float | None = None  # the same, by the loop's clock
        self._lease: AbstractAsyncContextManager[Replica] | None = None  # and what the ledger knows of it
        self._granted_at, self._ticket = 0.0, 0
        self._turn_to(self.model)

    def _turn_to(self, model: str) -> None:
        if model != self.model and self._ask.session:  # which has a home at each model that answered it
            self._ask = self._ask._replace(session=_session_at(model, self._ask.session.partition("\0")[2]))
        self.model = model
        self.timeout_s = timeout_s = self._router.timeout_s(self._given_s, model)
        self.deadline = None if timeout_s is None else self._arrived + timeout_s

    async def __aenter__(self) -> Replica:
        """The next one that grants a lease. Raises when nobody is left, and whatever only the caller can mend."""
        while True:
            if self._failure is not None:
                await self._pause()
            self.n_tries += 1
            wants = Wants(pick=self._pick, priority=self._priority, waits=self._waits, deadline=self.deadline)
            self._view = _NOBODY
            lease = self._router.fleet.lease(self.model, self._n_jobs, wants=wants)
            try:
                replica = await lease.__aenter__()
            except MENDABLE as error:
                self._go_on(error)
                continue
            self._lease = lease
            view, ledger = self._view, self._router.ledger
            self._granted_at = self._clock()
            self.replica = view.id
            self.is_aside = ledger.is_aside(self._ask)
            self._ticket = ledger.began(view, self._ask)
            return replica

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Quietly after a failure that another may mend."""
        lease, self._lease = self._lease, None  # which knows this: nothing is left to the garbage collector
        assert lease is not None
        view, is_failure = self._view, None if error is not None else False
        try:
            if isinstance(error, MENDABLE) and not isinstance(error, NotRead):
                is_failure = isinstance(error, GenerationFailed) or None
                if not self.has_begun:
                    self._go_on(error)
                    return True
            return False
        finally:
            now, ledger = self._clock(), self._router.ledger
            work = now - self._granted_at
            if isinstance(error, NotBegun):
                work = 0.0
                if not self.is_aside:
                    ledger.left(view, self._ask)
            if self._goes_to:
                self._router.going[self._goes_to] -= self._n_jobs
                self._goes_to = ""
            ledger.ended(view, self._ticket, work=work, now=now, is_failure=is_failure)
            await lease.__aexit__(kind, error, trace)

    def begin(self) -> None:
        """Its first event is told. Idempotent."""
        if not self.has_begun:
            self.has_begun = True
            self._request = None
            self._router.ledger.answers(self._view, self._ticket)

    def may_go(self, beside: bool) -> bool:
        """Could another take it now? Where nothing was told of it yet. `beside`: a replica of the same model.

        Who is told so leaves at once, and there is so much less room there until it has.
        """
        router = self._router
        if self.has_begun or router.fleet.is_draining:
            return False
        left = (self.model,) if beside else self._models[self._next :]
        tried = {*self._tried, self._view.id}
        for seen in router.fleet.seen_of(left):
            router.views[seen.name] = views = seen.views()
            n_room = router.n_could_take(views, tried)
            if seen.name != self.model:
                n_room += seen.n_may_wait(self._waits)
            if n_room > router.going[seen.name]:
                router.going[seen.name] += self._n_jobs
                self._goes_to = seen.name
                return True
        return False

    def learn(self, answered: Answered) -> None:
        """The answer is whole: what it tells of the model's speed."""
        self._router.rates.learn(self.model, answered, self._clock())

    def _pick(self, views: Sequence[ReplicaView]) -> int | None:
        router = self._router
        router.views[self.model] = views
        if len(views) > 1:
            self._ask = self._with_chain(self._ask)
        index = router.ledger.pick(
            views, self._ask, self._clock(), tried=self._tried, is_last=self._is_last, request=self._request
        )
        if index is not None:
            self._view = views[index]
        return index

    def _go_on(self, error: LlamahostError) -> None:
        """Set who is asked next, or raise."""
        if self._router.fleet.is_draining:
            raise error
        self._first_error = max(self._first_error or error, error, key=hope)
        if isinstance(error, NotBegun):  # nothing was begun, so nothing failed: it only waits elsewhere
            self._tried.add(self._view.id)
            if self._is_last or self._others():
                return
        elif self._view is not _NOBODY and not isinstance(error, NOT_ITS_FAULT):  # it was there, and failed
            self._failure = error
            self._n_failed += 1
            self._tried.add(self._view.id)
            may_retry = self._n_failed <= self._router.settings.n_retries
            if not may_retry and (self._is_last or not self.route):
                raise error
            if may_retry and (self._is_last or self._others()):
                return  # another replica of this model, or the same one again
        self._next += 1
        if self._next == len(self._models):
            raise self._failure or self._first_error
        self._turn_to(self._models[self._next])

    @property
    def _is_last(self) -> bool:
        return self._next + 1 == len(self._models)

    def _others(self) -> bool:
        """Are there replicas of this model that were not tried?"""
        views = self._router.views.get(self.model, ())
        return any(view.is_ready and view.n_room > 0 and view.id not in self._tried for view in views)

    async def _pause(self) -> None:
        """Before somebody is asked again who failed; whoever was not asked yet is asked at once."""
        if not self._is_last or self._others():
            return
        if not any(view.id in self._tried for view in self._router.views.get(self.model, ())):
            return
        pause_s = PAUSE_S * 2 ** (self._n_failed - 1) * (0.5 + self._router.draw() / 2)
        if self._failure is not None and self.deadline is not None and self._clock() + pause_s >= self.deadline:
            raise self._failure
        await asyncio.sleep(pause_s)

    def _asked(self, request: Request) -> Ask:
        if not isinstance(request, ChatRequest | CompletionRequest):
            return NO_ASK
        generation = request.generation
        session = generation.session_id or generation.user
        if not session:
            return NO_ASK
        is_single = isinstance(request, ChatRequest) and not any(m.role == "assistant" for m in request.messages)
        ask = Ask(session=_session_at(self.model, session), is_single=is_single, is_of_user=not generation.session_id)
        return self._with_chain(ask)

    def _with_chain(self, ask: Ask) -> Ask:
        """Where there is one replica, and no session to be told aside, nobody asks what its prompt begins with."""
        if ask.chain is not NO_CHAIN or not isinstance(self._request, ChatRequest | CompletionRequest):
            return ask
        return ask._replace(chain=chain_of(self._request))


def _session_at(model: str, session: str) -> str:
    return f"{model}\0{session}"


def _lacks_template(seen: Seen, kind: Kind) -> bool:
    return kind == "chat" and seen.known is not None and not seen.known.has_chat_template
