"""Laws of a replica's vectors: refused is refused, whenever it comes; dimensions are checked first of all."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llamahost.core.errors import InvalidRequest, Unavailable
from llamahost.core.vectors import EmbedRequest
from llamahost.engine.outbox import Outbox
from llamahost.engine.worker import Worker
from llamahost.fleet.replica.replica import MAX_NUMBERS, Replica
from llamahost.fleet.replica.vectors import Vectors
from llamahost.fleet.request.amounts import N_SMALL
from llamahost.fleet.request.inputs import Inputs
from llamahost.fleet.request.lanes import Lanes
from tests.fake_embedder import FakeEmbedBackend
from tests.fakes import FakeBackend
from tests.fleet.fakes import SlowVocabulary, open_fake, spec_of
from tests.on_loop import LIMIT_S, on_loop


@asynccontextmanager
async def replica_on(embedder: FakeEmbedBackend) -> AsyncIterator[tuple[Replica, SlowVocabulary]]:
    worker = Worker("test")
    worker.start()
    lanes = Lanes(2)
    opened = open_fake(spec_of(), FakeBackend())
    opened.backend.close()  # it only embeds
    opened.embedder = opened.model.embedder = embedder
    opened.inputs = Inputs(model="fake", n_ctx=embedder.n_ctx, vocabulary=opened.model.vocab)
    vectors = Vectors(embedder, worker, target_step_s=0.05, on_lost=lambda reason: None)
    replica = Replica(opened, None, vectors, worker, Outbox(asyncio.get_running_loop()), lanes)
    yield replica, opened.model.vocab
    await replica.close()
    lanes.close()
    assert opened.model.is_closed
    worker.close()


@on_loop
async def test_what_is_refused_while_it_is_prepared_is_not_computed() -> None:
    embedder = FakeEmbedBackend()
    async with replica_on(embedder) as (replica, vocabulary):
        vocabulary.gate.clear()
        asking = asyncio.ensure_future(replica.embed(EmbedRequest(inputs=("a" * 32,) * (N_SMALL // 32 + 1))))
        assert await asyncio.to_thread(vocabulary.entered.wait, LIMIT_S)
        assert vocabulary.thread != threading.get_ident()
        replica.refuse(Unavailable("the server is shutting down"))
        vocabulary.gate.set()
        with pytest.raises(Unavailable, match="shutting down"):
            await asking
    assert embedder.steps == []


@on_loop
async def test_whoever_is_ended_while_waiting_leaves_no_job() -> None:
    async with replica_on(FakeEmbedBackend()) as (replica, _):
        waiting = replica.embed(EmbedRequest(inputs=("a",)))
        waiting.send(None)
        waiting.close()  # no cancellation: what a loop that ends does to what it drops
        assert (await replica.embed(EmbedRequest(inputs=("b",))))[1]


@on_loop
async def test_more_dimensions_than_there_are_cost_no_computing() -> None:
    embedder = FakeEmbedBackend()
    async with replica_on(embedder) as (replica, _):
        with pytest.raises(InvalidRequest, match="at most 2"):
            await replica.embed(EmbedRequest(inputs=("a",), dimensions=3))
    assert embedder.steps == []


@on_loop
async def test_vectors_of_each_token_are_told_whole_and_no_more_than_an_answer_holds() -> None:
    embedder = FakeEmbedBackend(pooling="none", n_dim=MAX_NUMBERS // 2)
    async with replica_on(embedder) as (replica, _):
        with pytest.raises(InvalidRequest, match="all its dimensions"):
            await replica.embed(EmbedRequest(inputs=("a",), dimensions=1))
        with pytest.raises(InvalidRequest, match="send fewer inputs"):
            await replica.embed(EmbedRequest(inputs=("abc",)))
        assert embedder.steps == []
        assert (await replica.embed(EmbedRequest(inputs=("a",))))[1]
