"""Laws of one replica: one door for cancellation, a model that outlives whoever reads its vocabulary."""

import asyncio
import threading
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from llamahost.core.errors import BackendError, DeadlineExceeded, GenerationFailed, InvalidRequest, Unavailable
from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Message, Text, Tool, ToolCall
from llamahost.core.work import Emission, Job
from llamahost.engine.engine import Engine
from llamahost.engine.outbox import Outbox
from llamahost.engine.scheduler import Scheduler
from llamahost.engine.worker import Worker
from llamahost.fleet.replica.replica import Replica
from llamahost.fleet.request.amounts import N_SMALL
from llamahost.fleet.request.lanes import Lanes
from tests.fakes import FakeBackend, Gated, alone
from tests.fleet.fakes import SlowVocabulary, open_fake, spec_of
from tests.on_loop import LIMIT_S, on_loop, turns


def job_of(job_id: int, n_max: int = 6) -> Job:
    return Job(id=job_id, tokens=array("i", [job_id, 2, 3]), n_max=n_max)


@asynccontextmanager
async def replica_on(backend: FakeBackend) -> AsyncIterator[Replica]:
    worker = Worker("test")
    worker.start()
    outbox = Outbox(asyncio.get_running_loop())
    engine = Engine(backend, Scheduler.for_backend(backend, is_checked=True), outbox.publish)
    lanes = Lanes(2)
    opened = open_fake(spec_of(), backend)
    replica = Replica(opened, engine, None, worker, outbox, lanes)
    yield replica
    await replica.close()
    lanes.close()
    assert opened.model.is_closed
    assert not outbox._unread
    assert replica.stats.n_running == replica.stats.n_waiting == 0
    worker.close()


async def tokens_of(replica: Replica, *jobs: Job) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {job.id: [] for job in jobs}
    with replica.stream(jobs) as stream:
        async for emission in stream:
            tokens[emission.job_id] += emission.tokens
    return tokens


@on_loop
async def test_a_stream_has_all_tokens_of_all_its_jobs() -> None:
    async with replica_on(FakeBackend()) as replica:
        jobs = [job_of(k) for k in range(1, 7)]
        assert await tokens_of(replica, *jobs) == {job.id: alone(job, 256) for job in jobs}


@on_loop
async def test_leaving_a_stream_aborts_what_is_unfinished() -> None:
    backend = Gated()
    async with replica_on(backend) as replica:
        with replica.stream([job_of(1, n_max=200), job_of(2, n_max=200)]):
            await asyncio.to_thread(backend.entered.acquire)
        backend.open()
        await tokens_of(replica, job_of(3))
        assert {span.job_id for plan in backend.plans[1:] for span in plan.spans} == {3}


@on_loop
async def test_dropping_one_job_leaves_the_others() -> None:
    async with replica_on(FakeBackend()) as replica:
        seen: list[Emission] = []
        with replica.stream([job_of(1, n_max=200), job_of(2)]) as stream:
            stream.drop(1)
            stream.drop(1)
            seen = [emission async for emission in stream]
        assert {emission.job_id for emission in seen} == {2}


@on_loop
async def test_a_failed_job_raises_and_the_next_stream_works() -> None:
    async with replica_on(FakeBackend(failures={2: BackendError("bad step")})) as replica:
        with pytest.raises(GenerationFailed, match="bad step"):
            await tokens_of(replica, job_of(1))
        assert await tokens_of(replica, job_of(2)) == {2: alone(job_of(2), 256)}


@on_loop
async def test_a_deadline_ends_the_reading_and_the_job() -> None:
    backend = Gated()
    async with replica_on(backend) as replica:
        with replica.stream([job_of(1, n_max=200)]) as stream:
            stream.expire_at(asyncio.get_running_loop().time(), 0.25)
            with pytest.raises(DeadlineExceeded, match=r"0\.25 s"):
                await anext(aiter(stream))
        backend.open()
        await tokens_of(replica, job_of(2))


@on_loop
async def test_streams_can_be_failed_from_outside_also_before_they_are_read() -> None:
    backend = Gated()
    async with replica_on(backend) as replica:
        with replica.stream([job_of(1, n_max=200)]) as stream:
            replica.refuse(Unavailable("the server is shutting down"))
            with pytest.raises(Unavailable):
                await anext(aiter(stream))
        backend.open()


@on_loop
async def test_small_prompts_stay_on_the_loop_and_large_ones_do_not_block_it() -> None:
    async with replica_on(FakeBackend(n_ctx=2 * N_SMALL)) as replica:
        vocabulary = replica.vocabulary
        assert isinstance(vocabulary, SlowVocabulary)
        small = await replica.prepare(CompletionRequest(prompts=("abc",)))
        assert small.jobs[0].tokens.tolist() == [256, *b"abc"]

        vocabulary.gate.clear()
        vocabulary.entered.clear()
        large = asyncio.ensure_future(replica.prepare(CompletionRequest(prompts=("x" * (N_SMALL + 1),))))
        await turns()  # the loop goes on, and the thread has the work
        assert await asyncio.to_thread(vocabulary.entered.wait, LIMIT_S)
        assert not large.done()
        vocabulary.gate.set()
        assert len((await large).jobs[0].tokens) == N_SMALL + 2


@pytest.mark.parametrize(
    "request_",
    [
        CompletionRequest(prompts=("x",) * 200),
        CompletionRequest(prompts=("x",), generation=Generation(n=100)),
        CompletionRequest(prompts=(tuple(range(64)) * 40,)),
        ChatRequest(messages=(Message(role="user", parts=(Text("x"),)),) * 200),
        ChatRequest(messages=(Message(role="user", parts=(Text("x"),)),), generation=Generation(n=100)),
    ],
)
@on_loop
async def test_many_small_things_are_not_small(request_: ChatRequest | CompletionRequest) -> None:
    async with replica_on(FakeBackend(n_ctx=8192)) as replica:
        preparing = asyncio.ensure_future(replica.prepare(request_))
        await asyncio.sleep(0)  # on the loop it would be done with the first turn of the task
        assert not preparing.done()
        await preparing


@on_loop
async def test_closing_waits_for_a_tokenising_whose_caller_has_left() -> None:
    async with replica_on(FakeBackend(n_ctx=2 * N_SMALL)) as replica:
        vocabulary = replica.vocabulary
        assert isinstance(vocabulary, SlowVocabulary)
        vocabulary.gate.clear()
        large = asyncio.ensure_future(replica.prepare(CompletionRequest(prompts=("x" * (N_SMALL + 1),))))
        await turns()
        assert await asyncio.to_thread(vocabulary.entered.wait, LIMIT_S)
        large.cancel()
        closing = asyncio.ensure_future(replica.close())
        await turns(20)
        assert not vocabulary.is_closed
        vocabulary.gate.set()
        await closing
        assert vocabulary.n_uses_after_close == 0


@on_loop
async def test_a_bad_request_raises_from_the_pool_as_from_the_loop() -> None:
    async with replica_on(FakeBackend()) as replica:
        for n in (300, N_SMALL + 1):
            with pytest.raises(InvalidRequest, match="`, 256 tokens"):
                await replica.prepare(CompletionRequest(prompts=("x" * n,), generation=Generation(max_tokens=1)))


@on_loop
async def test_what_may_be_large_without_being_text_is_prepared_in_a_lane() -> None:
    user = Message(role="user", parts=(Text("hello"),))
    tool = Tool(name="f", parameters={"enum": ["x" * 100] * 1000})
    call = ToolCall("1", "f", "{}" + " " * N_SMALL)
    large: list[ChatRequest | CompletionRequest] = [
        ChatRequest(messages=(user,), tools=(tool,), tool_choice="none"),
        ChatRequest(messages=(user,), template_options={"documents": [{"text": "x" * 10**5}]}),
        ChatRequest(messages=(user,), template_options={"system": "x" * N_SMALL}),
        ChatRequest(messages=(user, Message(role="assistant", tool_calls=(call,)), user)),
        ChatRequest(messages=(user,) * 1000),
        ChatRequest(messages=(user,), generation=Generation(sampling={"logit_bias": ((1, 1.0),) * N_SMALL})),
        CompletionRequest(prompts=("a",), generation=Generation(stop_ids=(1,) * N_SMALL)),
    ]
    small = [
        ChatRequest(messages=(user,)),
        ChatRequest(messages=(user,), template_options={"enable_thinking": False, "level": "low"}),
    ]
    async with replica_on(FakeBackend(n_ctx=64 * N_SMALL)) as replica:
        vocabulary = replica.vocabulary
        assert isinstance(vocabulary, SlowVocabulary)
        here = threading.get_ident()
        cases: tuple[tuple[Sequence[ChatRequest | CompletionRequest], bool], ...] = ((large, False), (small, True))
        for requests, is_here in cases:
            for request in requests:
                await replica.prepare(request)
                assert (vocabulary.thread == here) is is_here
