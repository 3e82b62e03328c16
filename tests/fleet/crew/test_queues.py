"""Laws of a replica whose step does not return: who waits there is answered elsewhere; who has begun there stays."""

from __future__ import annotations

import asyncio
import random
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from llamahost.core.errors import DeadlineExceeded, LlamahostError, NotBegun
from llamahost.core.events import Delta, Event, Finished, Started
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.work import EmbedJob, Plan, Tokens, Vector
from llamahost.engine.worker import Worker
from llamahost.fleet.crew.place import Running
from llamahost.fleet.replica.vectors import Vectors
from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import AsyncHost
from tests.fake_embedder import FakeEmbedBackend
from tests.fakes import FakeBackend
from tests.fleet.budgeted import BudgetedDevices
from tests.fleet.fakes import FakeLoader, spec_of
from tests.on_loop import LIMIT_S, on_loop, turns
from tests.replicas import Records


class Hangs(FakeBackend):
    """One whose steps do not return while it is held; `is_hung` while one does not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.free = threading.Event()
        self.free.set()
        self.is_hung = False

    def launch(self, plan: Plan) -> None:
        if not self.free.is_set():
            self.is_hung = True
            assert self.free.wait(LIMIT_S)
            self.is_hung = False
        super().launch(plan)


@asynccontextmanager
async def host_of(manifest: Manifest, make: Callable[[], Hangs], records: Records) -> AsyncIterator[AsyncHost]:
    """All replicas are there; one stalls while a backend of its device hangs."""
    loader = FakeLoader(make)
    devices = BudgetedDevices({f"d{k}": 2**30 for k in range(2)})
    async with AsyncHost(manifest, observer=records, load=loader, hardware=devices) as host:
        n_replicas = sum(int(spec.replicas) for spec in manifest.models if spec.load == "start")
        while sum(each.state == "ready" for model in host.models() for each in model.replicas) < n_replicas:
            await turns()
        devices_of = {each.record.id: each.record.placement.devices for each in running_of(host)}
        for running in running_of(host):
            beside = [each for each in running_of(host) if devices_of[each.record.id] == devices_of[running.record.id]]
            running.is_stalled = lambda beside=beside: any(hung(each).is_hung for each in beside)  # type: ignore[misc]
        try:
            yield host
        finally:
            for opened in loader.opened:
                opened.backend.free.set()  # type: ignore[attr-defined]
        stats = [running.replica.stats for running in running_of(host)]
        while any(each.n_running or each.n_waiting for each in stats):
            await turns()
            stats = [running.replica.stats for running in running_of(host)]


def running_of(host: AsyncHost) -> list[Running]:
    return [each for place in host._fleet._crew.places.values() for each in place.running.values()]


def hung(running: Running) -> Hangs:
    backend = running.replica._backend
    assert isinstance(backend, Hangs)
    return backend


def look(host: AsyncHost) -> None:
    host._fleet._crew.queues.look()


def ask(n_tokens: int, model: str = "m", timeout_s: float | None = None, n: int = 1) -> CompletionRequest:
    generation = Generation(max_tokens=n_tokens, timeout_s=timeout_s, n=n)
    return CompletionRequest(prompts=("abc",), model=model, generation=generation)


async def all_of(host: AsyncHost, request: CompletionRequest) -> list[Event]:
    return [event async for event in host.complete(request)]


def replica_of(events: list[Event]) -> str:
    first = events[0]
    assert isinstance(first, Started)
    return first.replica


def models(*specs: ModelSpec) -> Manifest:
    routes = (RouteSpec(name="r", models=tuple(spec.name for spec in specs), strategy="fallback"),)
    return Manifest(models=specs, routes=routes if len(specs) > 1 else ())


@on_loop
async def test_who_waits_where_a_step_hangs_moves_and_who_has_begun_there_stays() -> None:
    records = Records()
    manifest = models(spec_of("m", replicas=2, max_queue=9))
    async with host_of(manifest, lambda: Hangs(n_slots=1, n_ctx=10**4), records) as host:
        backends = {running.record.id: hung(running) for running in running_of(host)}
        for backend in backends.values():
            backend.free.clear()
        asked = [asyncio.ensure_future(all_of(host, ask(3))) for _ in range(6)]
        while not all(each.is_hung for each in backends.values()):
            await turns()
        backends["m#1"].free.set()
        while sum(each.done() for each in asked) < 3:
            await turns()
        look(host)
        while sum(each.done() for each in asked) < 5:
            await turns()
        [stays] = [each for each in asked if not each.done()]  # it has its part in that step
        assert all(replica_of(each.result()) == "m#1" for each in asked if each is not stays)
        assert [each.n_tries for each in records] == [1] * 3 + [2] * 2
        backends["m#0"].free.set()
        assert replica_of(await stays) == "m#0", "it is answered there after all"
        assert all(sum(e.n_tokens for e in each.result() if isinstance(e, Delta)) == 3 for each in asked)
        assert len(records) == 6


@on_loop
async def test_who_was_told_an_event_stays_also_where_the_step_of_another_model_hangs() -> None:
    records = Records()
    specs = [spec_of("a", devices=("d0",)), spec_of("b", devices=("d0",)), spec_of("c", devices=("d1",))]
    manifest = Manifest(models=tuple(specs), routes=(RouteSpec(name="r", models=("a", "c"), strategy="fallback"),))
    async with host_of(manifest, lambda: Hangs(n_slots=1, n_ctx=10**4), records) as host:
        hanging = next(hung(each) for each in running_of(host) if each.record.id == "b#0")
        async with aclosing(host.complete(ask(400, model="r"))) as told:
            assert replica_of([await anext(told)]) == "a#0"
            waits = asyncio.ensure_future(all_of(host, ask(3, model="r")))
            hanging.free.clear()
            other = asyncio.ensure_future(all_of(host, ask(3, model="b")))
            while host.models()[0].n_in_flight < 2 or not hanging.is_hung:
                await turns()
            look(host)
            assert replica_of(await waits) == "c#0"
            hanging.free.set()
            rest = [event async for event in told]
        await other
    assert sum(event.n_tokens for event in rest if isinstance(event, Delta)) == 400
    assert sum(isinstance(event, Finished) for event in rest) == 1
    assert sorted((each.replica, each.n_tries) for each in records) == [("a#0", 1), ("b#0", 1), ("c#0", 2)]


@on_loop
async def test_who_finds_nobody_else_waits_on_and_has_its_deadline() -> None:
    manifest = models(spec_of("m", replicas=2, max_queue=1))
    async with host_of(manifest, lambda: Hangs(n_slots=1), Records()) as host:
        backends = [hung(running) for running in running_of(host)]
        for backend in backends:
            backend.free.clear()
        asked = [asyncio.ensure_future(all_of(host, ask(3))) for _ in range(3)]
        late = asyncio.ensure_future(all_of(host, ask(3, timeout_s=0.01)))
        while not all(each.is_hung for each in backends):
            await turns()
        for _ in range(3):
            look(host)
            await turns()
        with pytest.raises(DeadlineExceeded):
            await late
        assert not any(each.done() for each in asked)
        for backend in backends:
            backend.free.set()
        assert all(len(events) > 2 for events in await asyncio.gather(*asked))


@on_loop
async def test_of_a_route_the_next_model_answers_in_its_place() -> None:
    records = Records()
    manifest = models(spec_of("a", devices=("d0",)), spec_of("b", devices=("d1",)))
    async with host_of(manifest, lambda: Hangs(n_slots=1), records) as host:
        backend = next(hung(each) for each in running_of(host) if each.record.id == "a#0")
        backend.free.clear()
        asked = [asyncio.ensure_future(all_of(host, ask(3, model="r"))) for _ in range(3)]
        while host.models()[0].n_in_flight < 3 or not backend.is_hung:
            await turns()
        look(host)
        assert [replica_of(await each) for each in asked[1:]] == ["b#0"] * 2
        assert not asked[0].done()
        backend.free.set()
        assert replica_of(await asked[0]) == "a#0"


@on_loop
async def test_nobody_moves_to_a_model_that_refuses_who_comes_before_it_is_loaded() -> None:
    b = spec_of("b", devices=("d1",), load="request", when_loading="refuse")
    async with host_of(models(spec_of("a", devices=("d0",)), b), lambda: Hangs(n_slots=1), Records()) as host:
        [running] = running_of(host)
        hung(running).free.clear()
        asked = [asyncio.ensure_future(all_of(host, ask(3, model="r"))) for _ in range(3)]
        while host.models()[0].n_in_flight < 3 or not hung(running).is_hung:
            await turns()
        look(host)
        await turns(9)
        assert not any(each.done() for each in asked)
        await host.load("b")
        look(host)
        assert [replica_of(await each) for each in asked[1:]] == ["b#0"] * 2
        hung(running).free.set()
        assert replica_of(await asked[0]) == "a#0"


@on_loop
async def test_nobody_looks_any_more_at_what_was_closed_before_its_devices_were_known() -> None:
    host = AsyncHost(models(spec_of("m")), load=FakeLoader(), hardware=BudgetedDevices({"d0": 2**30}))
    await host.start()
    assert not host._fleet.devices()
    await host.aclose()
    timer = host._fleet._crew.queues._timer
    assert timer is None or timer.cancelled()


@on_loop
async def test_a_burst_on_a_model_that_loads_is_shared_with_the_replica_that_comes_later() -> None:
    records, second = Records(), threading.Event()
    backends: list[Hangs] = []

    class OneAfterTheOther(FakeLoader):
        def made_for(self, spec: ModelSpec) -> FakeBackend:
            with self._counting:
                backends.append(backend := Hangs(n_slots=2, n_ctx=10**4))
                is_first = len(backends) == 1
            if is_first:
                backend.free.clear()
            else:
                assert second.wait(LIMIT_S)
            return backend

    manifest = models(spec_of("m", replicas=2, max_queue=20, load="request"))
    devices = BudgetedDevices({f"d{k}": 2**30 for k in range(2)})
    async with AsyncHost(manifest, observer=records, load=OneAfterTheOther(), hardware=devices) as host:
        asked = [asyncio.ensure_future(all_of(host, ask(200))) for _ in range(10)]
        while host.models()[0].n_in_flight < 10 or not backends[0].is_hung:
            await turns()
        [first] = [running.record.id for running in running_of(host)]
        second.set()
        while len(running_of(host)) < 2:
            await turns()
        for _ in range(5):  # looks, while a step lasts, after which it is said who waits
            look(host)
        backends[0].free.set()
        answers = [replica_of(await each) for each in asked]
    assert answers[:2] == [first] * 2, "they have begun there"
    assert 3 <= answers.count(first) <= 7
    assert all(each.n_tries == 1 + (each.replica != first) for each in records)
    assert [each.n_generated for each in records] == [200] * 10


class HangingEmbedder(FakeEmbedBackend):
    def __init__(self) -> None:
        super().__init__(n_inputs=1)
        self.entered, self.free = threading.Event(), threading.Event()

    def embed(self, inputs: Sequence[Tokens]) -> list[Vector]:
        self.entered.set()
        assert self.free.wait(LIMIT_S)
        return super().embed(inputs)


@on_loop
async def test_inputs_that_wait_to_be_embedded_move_too() -> None:
    worker, backend = Worker("test"), HangingEmbedder()
    worker.start()
    vectors = Vectors(backend, worker, target_step_s=0.05, on_lost=lambda reason: None)
    jobs = [EmbedJob(id=k, inputs=(array("i", [k]),)) for k in range(1, 5)]
    asked = [asyncio.ensure_future(vectors.of(job, lambda beside, k=k: k != 4)) for k, job in enumerate(jobs, 1)]  # type: ignore[misc]
    assert await asyncio.to_thread(backend.entered.wait, LIMIT_S)
    vectors.let_go("it hangs")
    for each in asked[1:3]:
        with pytest.raises(NotBegun, match="it hangs"):
            await each
    backend.free.set()
    assert [len(await asked[k]) for k in (0, 3)] == [1, 1]
    assert [step[0][0] for step in backend.steps] == [1, 4], "what has moved is not computed"
    assert await asyncio.to_thread(worker.close, LIMIT_S)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))])
def test_at_random_each_request_is_answered_once_and_nothing_is_left(seed: int) -> None:
    """Steps that hang and go on, looks, clients that leave, deadlines; models and a route."""
    dice = random.Random(seed)
    records = Records()

    @on_loop
    async def law() -> None:
        n_begun = 0
        manifest = models(*(spec_of(name, replicas=2, max_queue=dice.choice([2, 6])) for name in ("m", "o")))
        async with host_of(manifest, lambda: Hangs(n_slots=2), records) as host:

            async def request() -> None:
                nonlocal n_begun
                n_begun += 1
                asked = ask(dice.randrange(1, 20), dice.choice(["m", "o", "r"]), dice.choice([None, None, 0.05]))
                n_left, n_tokens, starts, ends = dice.choice([10**6, 10**6, 2]), 0, 0, 0
                try:
                    async with aclosing(host.complete(asked)) as events:
                        async for event in events:
                            assert not ends, "nothing comes behind the end"
                            starts += isinstance(event, Started)
                            ends += isinstance(event, Finished)
                            n_tokens += event.n_tokens if isinstance(event, Delta) else 0
                            n_left -= 1
                            if not n_left:
                                return
                except (DeadlineExceeded, LlamahostError):
                    return
                assert (starts, ends, n_tokens) == (1, 1, asked.generation.max_tokens)

            asked = []
            backends = [hung(each) for each in running_of(host)]
            for _ in range(40):
                asked.append(asyncio.ensure_future(request()))
                match dice.randrange(6):
                    case 0:
                        dice.choice(backends).free.clear()
                    case 1:
                        dice.choice(backends).free.set()
                    case 2 | 3:
                        look(host)
                    case 4:
                        await asyncio.to_thread(lambda: None)  # so that a worker runs
                await turns(dice.randrange(6))
            for backend in backends:
                backend.free.set()
            await asyncio.gather(*asked)
            assert len(records) == n_begun, "each is told of once"
            assert all(each.n_in_flight == 0 for each in host.models())

    law()
