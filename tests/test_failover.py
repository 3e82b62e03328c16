"""Laws of a host whose replicas fail: who answers in their place, whose streams end, and what is told of it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from llamahost.core.errors import (
    BackendError,
    BackendLost,
    GenerationFailed,
    Overloaded,
)
from llamahost.core.events import Delta, Event, Started
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import AsyncHost
from tests.fakes import FakeBackend
from tests.fleet.fakes import FakeLoader, spec_of
from tests.on_loop import on_loop, turns
from tests.replicas import Records, two_replicas


class Named(FakeLoader):
    """Opens each model with the backend of its name."""

    def __init__(self, backends: dict[str, FakeBackend]) -> None:
        super().__init__()
        self.backends = backends

    def made_for(self, spec: ModelSpec) -> FakeBackend:
        return self.backends[spec.name]


@asynccontextmanager
async def host_of(records: Records, **backends: FakeBackend) -> AsyncIterator[AsyncHost]:
    specs = tuple(spec_of(name) for name in backends)
    manifest = Manifest(models=specs, routes=(RouteSpec(name="r", models=tuple(backends), strategy="fallback"),))
    async with AsyncHost(manifest, observer=records, load=Named(backends)) as host:
        yield host


def to_route(n_tokens: int) -> CompletionRequest:
    return CompletionRequest(prompts=("abc",), model="r", generation=Generation(max_tokens=n_tokens))


@on_loop
async def test_a_step_that_fails_before_the_first_token_is_answered_for_by_the_next() -> None:
    records = Records()
    async with host_of(records, a=FakeBackend(failures={0: BackendError("a bad step")}), b=FakeBackend()) as host:
        events: list[Event] = [event async for event in host.complete(to_route(3))]
    assert isinstance(events[0], Started)
    assert (events[0].model, events[0].replica, events[0].n_tries) == ("b", "b#0", 2)
    assert sum(event.n_tokens for event in events if isinstance(event, Delta)) == 3
    assert [(r.outcome, r.route, r.model, r.replica, r.n_tries) for r in records] == [("length", "r", "b", "b#0", 2)]


@on_loop
async def test_a_step_that_fails_later_is_an_error_of_the_streams_in_it_alone() -> None:
    records = Records()
    backend = FakeBackend(n_ctx=10**5)
    async with host_of(records, a=backend, b=FakeBackend()) as host:
        async with aclosing(host.complete(to_route(90_000))) as running:
            assert isinstance(await anext(running), Started)
            backend.fail_next(BackendError("a bad step"))
            with pytest.raises(GenerationFailed, match="a bad step"):
                async for _ in running:
                    pass
        assert len([event async for event in host.complete(to_route(3))]) > 2
    assert [(r.outcome, r.replica, r.n_tries) for r in records] == [("error", "a#0", 1), ("length", "a#0", 1)]


@on_loop
async def test_a_replica_that_is_lost_ends_its_running_stream_alone_and_its_other_requests_move() -> None:
    records = Records()
    backends = [FakeBackend(n_ctx=10**5, n_slots=1), FakeBackend(n_ctx=10**5, n_slots=1)]
    async with two_replicas(*backends, records=records) as host, AsyncExitStack() as stack:
        running = []
        for _ in range(2):  # one on each
            events = await stack.enter_async_context(aclosing(host.complete(to_model(90_000))))
            first = await anext(events)
            assert isinstance(first, Started)
            running.append((first.replica, events))
        assert sorted(replica for replica, _ in running) == ["m#0", "m#1"]
        waiting = [asyncio.ensure_future(all_of(host.complete(to_model(3)))) for _ in range(4)]
        while host.models()[0].n_in_flight < 6:
            await turns()
        # The fleet has loaded them side by side: which of the two is m#0 shows by whose stream ends.
        backends[0].fail_next(BackendLost("the device is gone"))
        lost = [asyncio.ensure_future(all_of(events)) for _, events in running]
        await asyncio.wait(lost, return_when=asyncio.FIRST_COMPLETED)
        [failed] = [k for k, task in enumerate(lost) if task.done()]
        assert isinstance(lost[failed].exception(), GenerationFailed)
        assert not lost[1 - failed].done()
        lost[1 - failed].cancel()  # so that the others have a slot
        await asyncio.wait(lost)
        await running[1 - failed][1].aclose()
        answers = await asyncio.gather(*waiting)
        survivor = running[1 - failed][0]
        firsts = [events[0] for events in answers]
        assert all(isinstance(first, Started) and first.replica == survivor for first in firsts)
        assert {first.n_tries for first in firsts if isinstance(first, Started)} == {1, 2}


@on_loop
async def test_all_replicas_full_is_overloaded() -> None:
    records = Records()
    gated = [FakeBackend(n_slots=1, n_ctx=10**5), FakeBackend(n_slots=1, n_ctx=10**5)]
    async with two_replicas(*gated, records=records, max_queue=0) as host, AsyncExitStack() as stack:
        for _ in range(2):
            await anext(await stack.enter_async_context(aclosing(host.complete(to_model(90_000)))))
        with pytest.raises(Overloaded):
            await all_of(host.complete(to_model(3)))


def to_model(n_tokens: int) -> CompletionRequest:
    return CompletionRequest(prompts=("abc",), model="m", generation=Generation(max_tokens=n_tokens))


async def all_of(events: AsyncGenerator[Event, None]) -> list[Event]:
    return [event async for event in events]
