"""Laws of the asynchronous host: what a request is answered, what leaving it costs, and what is told of it."""

import asyncio
import random
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from llamahost.core.errors import (
    BackendError,
    ContextTooLong,
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    Unavailable,
)
from llamahost.core.events import Delta, Event, Finished, Started
from llamahost.core.messages import ChatRequest, Generation, Message, Text
from llamahost.fleet.request.amounts import N_SMALL
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.host import AsyncHost
from tests.fakes import FakeBackend, Gated, alone
from tests.fleet.fakes import FakeLoader, spec_of
from tests.hosted import Records, at_rest, chat, completion, events_of, host_of, text_of
from tests.on_loop import LIMIT_S, on_loop, turns


@on_loop
async def test_an_answer_is_started_then_told_then_finished() -> None:
    async with host_of() as (host, loader):
        events = await events_of(host, completion("abc", max_tokens=6))
        [job] = loader.opened[0].preparer.complete(completion("abc", max_tokens=6)).jobs
        expected = bytes(alone(job, 256)).decode()
        assert isinstance(events[0], Started)
        assert text_of(events) == expected
        assert sum(event.n_tokens for event in events if isinstance(event, Delta)) == 6
        assert isinstance(events[-1], Finished)
        assert events[-1].reason == "length"
        assert (events[-1].usage.n_prompt, events[-1].usage.n_generated) == (4, 6)


@on_loop
async def test_a_chat_goes_through_the_template() -> None:
    async with host_of() as (host, _):
        started = (await events_of(host, chat("hi", max_tokens=2)))[0]
        assert isinstance(started, Started)
        assert started.n_prompt == len("<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n") - len("<s>") + 1


class Watched(Message):
    """One of which can be told when it is gone."""


@on_loop
async def test_what_was_asked_is_kept_no_longer_than_until_somebody_has_begun_to_answer() -> None:
    async with host_of() as (host, _):
        said = Watched(role="user", parts=(Text("hi"),))
        kept = weakref.ref(said)
        request = ChatRequest(messages=(said,), generation=Generation(max_tokens=4, user="me"))
        async with aclosing(host.chat(request)) as events:
            del said, request
            await anext(events)
            assert kept() is None


@on_loop
async def test_answers_of_many_prompts_and_many_n_are_merged_by_index_each_in_order() -> None:
    async with host_of() as (host, loader):
        request = completion("abc", "de", "f", n=2)
        jobs = loader.opened[0].preparer.complete(request).jobs
        events = await events_of(host, request)
        for index in range(6):
            mine = [event for event in events if event.index == index]
            assert isinstance(mine[0], Started)
            assert [type(event) for event in mine[1:-1]] == [Delta] * (len(mine) - 2)
            assert isinstance(mine[-1], Finished)
            assert text_of(events, index) == bytes(alone(jobs[index], 256)).decode()


@on_loop
async def test_closing_the_generator_frees_the_slot_and_keeps_the_prefix() -> None:
    backend = FakeBackend(n_slots=1)
    async with host_of(backend) as (host, _):
        prompt = "a prompt of some length, " * 4
        async with aclosing(host.complete(completion(prompt, max_tokens=150))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        started = (await events_of(host, completion(prompt)))[0]
        assert isinstance(started, Started)
        assert started.n_cached == started.n_prompt - 1
        await at_rest(host)
        assert host.models()[0].n_in_flight == 0


@on_loop
async def test_a_stop_string_ends_the_answer_and_its_job() -> None:
    backend = FakeBackend(n_ctx=2048)
    async with host_of(backend) as (host, _):
        whole = text_of(await events_of(host, completion(max_tokens=40)))
        stop = whole[20]
        events = await events_of(host, completion(max_tokens=1500, stop=(stop,), n=1))
        assert text_of(events) == whole[: whole.index(stop)]
        finished = events[-1]
        assert isinstance(finished, Finished)
        assert (finished.reason, finished.stop) == ("stop", stop)
        assert finished.usage.n_generated == whole.index(stop) + 1
        assert finished.timings.generation_s > 0
        await at_rest(host)
        assert backend.n_kept_for_jobs == 0


@on_loop
async def test_a_stop_ends_each_of_n_answers_where_it_comes_and_leaves_the_others_alone() -> None:
    async with host_of(FakeBackend(n_ctx=2048)) as (host, _):
        events = await events_of(host, completion(max_tokens=40, n=4))
        wholes = [text_of(events, index) for index in range(4)]
        stop = wholes[1][10:12]
        events = await events_of(host, completion(max_tokens=40, n=4, stop=(stop,)))
        reasons = {event.index: event.reason for event in events if isinstance(event, Finished)}
        assert reasons[1] == "stop"
        assert "length" in reasons.values()
        for index, whole in enumerate(wholes):
            assert text_of(events, index) == whole.partition(stop)[0]
            assert (reasons[index] == "stop") == (stop in whole)
        await at_rest(host)


@on_loop
async def test_errors_before_the_first_token_come_before_any_event() -> None:
    records = Records()
    backend = FakeBackend(n_slots=1, failures={0: BackendError("bad step")})
    async with host_of(backend, records=records, server=ServerSettings(n_retries=0)) as (host, _):
        for request, error in (
            (completion("x" * 300), ContextTooLong),
            (completion(stop_ids=(10**6,)), InvalidRequest),
            (completion(), GenerationFailed),
        ):
            with pytest.raises(error):
                await anext(host.complete(request))
        assert text_of(await events_of(host, completion()))
    assert records.outcomes == ["rejected", "rejected", "error", "length"]


@on_loop
async def test_who_cannot_be_served_is_refused_and_that_is_told_once() -> None:
    records = Records()
    loader = FakeLoader()
    async with AsyncHost(spec_of(max_queue=0), observer=records, load=loader, is_strict=True) as host:
        with pytest.raises(ModelNotFound):
            await events_of(host, completion(model="gpt-4"))
        busy = host.complete(completion("a", "b", "c", "d", max_tokens=200))
        await anext(busy)
        with pytest.raises(Overloaded):
            await events_of(host, completion())
        await busy.aclose()
        host.drain()
        host.drain()
        with pytest.raises(Unavailable):
            await events_of(host, completion())
        assert not host.health().is_ready
    assert records.outcomes == ["rejected", "rejected", "cancelled", "rejected"]
    assert [record.model for record in records] == ["gpt-4", "fake", "fake", "fake"]


@on_loop
async def test_the_deadline_of_a_request_holds_while_it_computes() -> None:
    records, backend = Records(), Gated()
    async with host_of(backend, records=records, timeout_s=1000.0) as (host, _):
        with pytest.raises(DeadlineExceeded, match=r"0\.002 s"):
            await events_of(host, completion(timeout_s=0.002))
        backend.open()
        assert text_of(await events_of(host, completion()))
        await at_rest(host)
    assert records.outcomes == ["error", "length"]


@on_loop
async def test_the_deadline_of_a_model_holds_while_a_prompt_is_prepared() -> None:
    async with host_of(FakeBackend(n_ctx=2 * N_SMALL), timeout_s=0.002) as (host, loader):
        loader.vocabulary.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await events_of(host, completion("x" * (N_SMALL + 1)))
        loader.vocabulary.gate.set()


@on_loop
async def test_shutting_down_ends_what_runs_with_unavailable() -> None:
    records = Records()
    async with host_of(FakeBackend(n_ctx=100_000), records=records) as (host, _):
        running = host.complete(completion(max_tokens=90_000))
        await anext(running)
        await host.aclose(drain_s=0.001)
        with pytest.raises(Unavailable, match="shutting down"):
            async for _ in running:
                pass
        await host.aclose()
    assert records.outcomes == ["error"]


@on_loop
async def test_draining_lets_what_runs_finish() -> None:
    async with host_of() as (host, _):
        running = host.complete(completion(max_tokens=100))
        await anext(running)
        closing = asyncio.ensure_future(host.aclose(drain_s=LIMIT_S))
        rest = [event async for event in running]
        assert isinstance(rest[-1], Finished)
        assert rest[-1].usage.n_generated == 100
        await closing


@on_loop
async def test_the_observer_is_told_of_each_request_once_with_its_counts() -> None:
    records, backend = Records(), Gated()
    backend.open()
    async with host_of(backend, records=records) as (host, _):
        await events_of(host, completion("abc", "defg", n=2, max_tokens=3))
        [record] = records
        assert (record.model, record.kind, record.outcome) == ("fake", "completion", "length")
        assert (record.n_prompt, record.n_generated) == (4 + 5, 4 * 3)
        assert 0 < record.first_s <= record.total_s
        assert record.queued_s >= 0
        assert record.generation_s > 0

        partly = host.chat(chat(max_tokens=200))
        await anext(partly)
        await partly.aclose()
        await at_rest(host)
        backend.shut()  # or it might be answered before it is cancelled
        task = asyncio.ensure_future(events_of(host, chat(max_tokens=200)))
        await turns()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        backend.open()
        at_its_end = host.complete(completion(max_tokens=2))
        async for event in at_its_end:
            if isinstance(event, Finished):
                break
        await at_its_end.aclose()
    assert records.outcomes == ["length", "cancelled", "cancelled", "length"]
    assert records[1].kind == "chat"


@pytest.mark.slow
@on_loop
async def test_a_thousand_readers_leaving_at_random_cost_no_slot() -> None:
    rng = random.Random(7)
    records = Records()
    backend = FakeBackend(n_slots=4, n_ctx=256, is_unified=True, n_cells=600, failures={500: BackendError("bad step")})
    n = 1000

    async def visit(host: AsyncHost, room: asyncio.Semaphore) -> None:
        request = completion(
            "p" * rng.randrange(1, 100), n=rng.choice((1, 1, 1, 3)), max_tokens=rng.randrange(1, 60), stop=("0",)
        )
        n_events, patience = rng.randrange(0, 40), rng.random()
        async with room, aclosing(host.complete(request)) as events:
            if patience < 0.3:  # leaves whenever it is, waiting or not
                reading = asyncio.ensure_future(drink(events, n_events))
                await turns(rng.randrange(0, 30))
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            else:
                await drink(events, n_events)

    async def drink(events: AsyncIterator[Event], n_events: int) -> None:
        try:
            async for _ in events:
                n_events -= 1
                if n_events <= 0:
                    return
        except GenerationFailed:
            return

    async with host_of(backend, records=records) as (host, _):
        room = asyncio.Semaphore(24)
        await asyncio.gather(*(visit(host, room) for _ in range(n)))
        assert text_of(await events_of(host, completion("what everybody left", max_tokens=200)))
        await at_rest(host)
        assert host.models()[0].n_in_flight == 0
        assert host._fleet._outbox is not None
        assert not host._fleet._outbox._unread
    assert backend.n_kept_for_jobs == 0
    assert 0.9 * n < len(records) <= n + 1  # a reader cancelled before its first turn never began


@on_loop
async def test_tokens_there_and_back() -> None:
    async with host_of(max_queue=0) as (host, _):
        assert await host.tokenize("ab</s>") == [97, 98, 257]
        assert await host.tokenize("ab", add_special=True) == [256, 97, 98]
        assert await host.tokenize("</s>", parse_special=False) == list(b"</s>")
        assert await host.detokenize([97, 98, 257]) == "ab"
        for wrong in (100_000, -1, 2**40):
            with pytest.raises(InvalidRequest):
                await host.detokenize([wrong])
