"""One request, from the name that it asks for to its last event, and what is told of it when it is over.

Knows leases, tries and what replicas answer; knows no manifest, and nothing of how models come and go.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from llamahost.account import Account
from llamahost.core.errors import DeadlineExceeded, InvalidRequest
from llamahost.core.events import Delta, Event
from llamahost.core.messages import AdapterUse, ChatRequest, CompletionRequest
from llamahost.core.observe import Kind, Observer
from llamahost.core.vectors import Embeddings, EmbedRequest, Ranking, RerankRequest
from llamahost.core.work import NO_ADAPTERS, Adapters, Vector
from llamahost.fleet.fleet import Fleet
from llamahost.fleet.replica.replica import Replica
from llamahost.fleet.request.prepared import Prepared
from llamahost.fleet.routing.router import Router, Tries

Result = TypeVar("Result")
Whole = TypeVar("Whole", Embeddings, Ranking)
Words = TypeVar("Words", bound=ChatRequest | CompletionRequest)


class Answering:
    """Owned by the loop."""

    def __init__(self, fleet: Fleet, router: Router, observer: Observer | None) -> None:
        self._fleet = fleet
        self._router = router
        self._observer = observer

    async def events(
        self, request: ChatRequest | CompletionRequest, kind: Kind, n_jobs: int
    ) -> AsyncGenerator[Event, None]:
        with Account(request.model, kind, request.generation.n, self._observer) as account:
            adapter, account.asked = self._adapted(request)
            tries = account.tries = self._router.tries(account.asked, kind, n_jobs)
            account.model = tries.model  # a client that leaves now is counted by no name of its own
            del request
            while True:
                async with tries as replica:
                    adapters = self._adapters(replica, account.asked)
                    with replica.adapters.held(adapters):  # what it is computed with is kept in memory meanwhile
                        account.model = tries.model
                        prepared = await _in_time(tries, self._prepared(replica, account, adapters, adapter))
                        jobs = prepared.jobs
                        if tries.is_aside:
                            jobs = tuple(replace(job, is_aside=True) for job in jobs)
                        answers = {job.id: reply for job, reply in zip(jobs, prepared.replies, strict=True)}
                        with replica.stream(jobs, tries.may_go) as stream:
                            if tries.deadline is not None:
                                stream.expire_at(tries.deadline, tries.timeout_s or 0.0)
                            async for emission in stream:
                                account.times = emission.times
                                reply = answers[emission.job_id]
                                events = reply.feed(emission)
                                if reply.is_finished:
                                    stream.drop(emission.job_id)  # a stop string: no slot is kept while events are sent
                                for event in events:
                                    yield event if type(event) is Delta and account.first_s else account.see(event)
                    tries.learn(account.answered())
                    return

    async def embed(self, request: EmbedRequest) -> Embeddings:
        async def embed(replica: Replica, tries: Tries) -> Embeddings:
            prepared, vectors = await replica.embed(request, tries.may_go)
            if request.dimensions is not None and request.dimensions != replica.n_dim:
                n, whole = request.dimensions, vectors
                vectors = await replica.run(lambda: tuple(_first(vector, n) for vector in whole), n * len(whole))
            return Embeddings(
                vectors=vectors,
                model=replica.spec.name,
                n_tokens=prepared.n_tokens,
                cut=prepared.cut,
                n_token_dim=replica.n_token_dim,
                replica=tries.replica,
                n_tries=tries.n_tries,
            )

        return await self._whole(request, "embedding", embed)

    async def rank(self, request: RerankRequest) -> Ranking:
        async def rank(replica: Replica, tries: Tries) -> Ranking:
            prepared, vectors = await replica.rank(request, tries.may_go)
            return Ranking(
                scores=tuple(vector[0] for vector in vectors),
                model=replica.spec.name,
                n_tokens=prepared.n_tokens,
                is_probability=replica.has_probabilities,
                cut=prepared.cut,
                replica=tries.replica,
                n_tries=tries.n_tries,
            )

        return await self._whole(request, "rerank", rank)

    async def _whole(
        self,
        request: EmbedRequest | RerankRequest,
        kind: Kind,
        work: Callable[[Replica, Tries], Awaitable[Whole]],
    ) -> Whole:
        """One request that is answered at once, within its deadline."""
        with Account(request.model, kind, observer=self._observer) as account:
            if self._fleet.named(request.model)[1]:
                raise InvalidRequest(
                    f"`{request.model}` is an adapter, which answers and does not embed", param="model"
                )
            tries = account.tries = self._router.tries(request, kind, 1)
            account.model = tries.model
            while True:
                async with tries as replica:
                    account.model = tries.model
                    found = await _in_time(tries, work(replica, tries))
                    account.begin(found.n_tokens)
                    account.end()
                    return found

    def _adapted(self, request: Words) -> tuple[str, Words]:
        """The adapter that its model's name has, if any, and the request, which then asks for that of the model."""
        model, adapter = self._fleet.named(request.model)
        if not adapter:
            return "", request
        if request.generation.adapters:
            raise InvalidRequest(
                f"adapters are given by `lora` and by the model's name, `{request.model}`; give one", param="lora"
            )
        generation = replace(request.generation, adapters=(AdapterUse(adapter),))
        return adapter, replace(request, model=model, generation=generation)

    def _adapters(self, replica: Replica, asked: ChatRequest | CompletionRequest | None) -> Adapters:
        """What it is computed with. Raises InvalidRequest."""
        assert asked is not None, "who has begun is not tried again"
        uses = asked.generation.adapters
        return replica.adapters.of(self._fleet.uses(replica.spec.name, uses) if uses else ())

    async def _prepared(self, replica: Replica, account: Account, adapters: Adapters, adapter: str) -> Prepared:
        """The jobs of what is asked, and what reads them. Raises InvalidRequest."""
        assert account.asked is not None, "who has begun is not tried again"
        n = account.asked.generation.n
        prepared = await replica.prepare(account.asked)
        if adapters != NO_ADAPTERS:
            prepared = prepared.with_adapters(adapters, adapter)
        account.begin(sum([len(job.tokens) for job in prepared.jobs[::n]]), prepared.replies)
        return prepared


async def _in_time(tries: Tries, work: Awaitable[Result]) -> Result:
    """What comes of it before the deadline of who is tried now. Raises DeadlineExceeded."""
    if tries.deadline is None:
        return await work
    limit = asyncio.timeout_at(tries.deadline)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(tries.timeout_s or 0.0) from error


def _first(vector: Vector, n: int) -> Vector:
    """The first n dimensions, of length 1 again."""
    head = vector[:n]
    length = math.sqrt(math.fsum(value * value for value in head))
    return array("f", (value / length for value in head)) if length > 0 else head
