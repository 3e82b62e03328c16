"""Laws of the fleet: who may use a model now, who is refused and how, what loading and losing one does."""

import asyncio
import contextlib
import random
from array import array
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from llamahost.core.errors import (
    BackendLost,
    GenerationFailed,
    LoadFailed,
    ModelNotFound,
    Overloaded,
    Unavailable,
)
from llamahost.core.machine import Machine
from llamahost.core.vectors import EmbedRequest
from llamahost.core.work import Job
from llamahost.fleet.fleet import Fleet
from llamahost.fleet.machine.footprint import FileFacts
from llamahost.fleet.request.inputs import Inputs
from llamahost.fleet.routing.policy import Wants
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from tests.fake_embedder import FakeEmbedBackend
from tests.fakes import FakeBackend
from tests.fleet.budgeted import BudgetedDevices
from tests.fleet.fakes import FakeLoader, FakeOpened, spec_of
from tests.fleet.fleets import fleet_of, generate
from tests.on_loop import LIMIT_S, on_loop, turns


@on_loop
async def test_to_start_twice_loads_once() -> None:
    """An application starts the host that it serves, also where that was started already."""
    loader = FakeLoader()
    async with fleet_of(loader=loader) as fleet:
        await fleet.wait_ready()
        fleet.start()
        await fleet.wait_ready()
        assert [status.state for status in fleet.statuses()] == ["ready"]
        assert loader.n_loads == 1


@on_loop
async def test_a_lease_before_the_load_is_refused_with_the_progress_and_granted_after() -> None:
    loader = FakeLoader()
    loader.gate.clear()
    async with fleet_of(loader=loader) as fleet:
        await turns()
        assert fleet.statuses()[0].state == "loading"
        with pytest.raises(Unavailable, match="still loading"):
            async with fleet.lease("fake"):
                pass
        loader.gate.set()
        await fleet.wait_ready()
        status = fleet.statuses()[0]
        assert (status.state, status.progress, status.n_slots) == ("ready", 1.0, 4)
        assert len(await generate(fleet, 1)) == 4


@on_loop
async def test_a_request_waits_for_a_model_that_requests_load_whoever_began_to_load_it() -> None:
    loader = FakeLoader()
    loader.gate.clear()
    async with fleet_of(spec_of(load="request"), loader=loader) as fleet:
        loading = asyncio.ensure_future(fleet.load("fake"))
        await turns()
        answer = asyncio.ensure_future(generate(fleet, 1))
        await turns()
        loader.gate.set()
        await loading
        assert len(await answer) == 4


@on_loop
async def test_a_load_that_is_ended_with_the_fleet_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    loader = FakeLoader()
    loader.gate.clear()
    async with fleet_of(loader=loader) as fleet:
        await turns()
        closing = asyncio.ensure_future(fleet.close())
        await turns()
        loader.gate.set()
        await closing
    assert (loader.n_loads, caplog.messages) == (1, [])


@pytest.mark.parametrize(
    "error", [LoadFailed("fake.gguf is not a GGUF"), FileNotFoundError(2, "No such file"), ValueError("a bug")]
)
def test_a_load_that_fails_is_told_to_everyone_with_its_reason(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    @on_loop
    async def law() -> None:
        told = str(error).partition("] ")[2] or str(error)
        async with fleet_of(loader=FakeLoader(failures=[error])) as fleet:
            with pytest.raises(LoadFailed, match=told):
                await fleet.wait_ready()
            assert told in fleet.statuses()[0].reason
            assert any(each.exc_info for each in caplog.records) == isinstance(error, ValueError), "of bugs alone"
            with pytest.raises(Unavailable, match=told):
                async with fleet.lease("fake"):
                    pass

    law()


@on_loop
async def test_one_model_answers_to_any_name_unless_it_is_strict() -> None:
    async with fleet_of(spec_of("llama", aliases=("l",))) as fleet:
        await fleet.wait_ready()
        for name in ("llama", "l", "", "gpt-4"):
            async with fleet.lease(name) as replica:
                assert replica.spec.name == "llama"
    async with fleet_of(spec_of("llama"), is_strict=True) as fleet:
        await fleet.wait_ready()
        async with fleet.lease(""):
            pass
        with pytest.raises(ModelNotFound, match="did you mean `llama`"):
            async with fleet.lease("lama"):
                pass


@on_loop
async def test_several_models_want_their_names() -> None:
    async with fleet_of(spec_of("qwen"), spec_of("gemma", aliases=("small",))) as fleet:
        await fleet.wait_ready()
        async with fleet.lease("small") as small, fleet.lease("qwen") as qwen:
            assert (small.spec.name, qwen.spec.name) == ("gemma", "qwen")
        for name in ("", "gpt-4"):
            with pytest.raises(ModelNotFound):
                async with fleet.lease(name):
                    pass


@on_loop
async def test_without_models_everything_is_unavailable() -> None:
    fleet = Fleet((), FakeLoader())
    fleet.start()
    await fleet.wait_ready()
    with pytest.raises(Unavailable, match="no model"):
        async with fleet.lease("x"):
            pass
    await fleet.close()


@on_loop
async def test_a_full_queue_is_overloaded_with_a_time_and_opens_again() -> None:
    loader = FakeLoader(lambda: FakeBackend(n_slots=2))
    async with fleet_of(spec_of(max_queue=1), loader=loader) as fleet:
        await fleet.wait_ready()
        async with AsyncExitStack() as leases:
            for _ in range(3):
                await leases.enter_async_context(fleet.lease("fake"))
            assert fleet.statuses()[0].n_in_flight == 3
            with pytest.raises(Overloaded) as refused:
                async with fleet.lease("fake"):
                    pass
            assert 1.0 <= refused.value.retry_after_s <= 60.0
            async with fleet.lease("fake", n_jobs=0):  # the vocabulary is never refused
                pass
        async with fleet.lease("fake", n_jobs=100):  # one request may be more than a queue, when it comes first
            with pytest.raises(Overloaded):
                async with fleet.lease("fake"):
                    pass
        assert fleet.statuses()[0].n_in_flight == 0


@on_loop
async def test_draining_refuses_the_new_and_waits_for_the_old() -> None:
    loader = FakeLoader()
    async with fleet_of(loader=loader) as fleet:
        await fleet.wait_ready()
        async with fleet.lease("fake"):
            closing = asyncio.ensure_future(fleet.close(drain_s=LIMIT_S))
            await turns()
            with pytest.raises(Unavailable, match="shutting down"):
                async with fleet.lease("fake"):
                    pass
            assert not loader.backend.is_closed
        await closing
        assert loader.is_all_closed


@on_loop
async def test_what_is_left_after_the_drain_ends_with_unavailable() -> None:
    async with fleet_of(loader=FakeLoader(lambda: FakeBackend(n_ctx=100_000))) as fleet:
        await fleet.wait_ready()
        running = asyncio.ensure_future(generate(fleet, 1, n_max=90_000))
        await turns()
        await fleet.close(drain_s=0.001)
        with pytest.raises(Unavailable, match="shutting down"):
            await running


@on_loop
async def test_closing_while_a_model_loads_leaves_nothing_open() -> None:
    loader = FakeLoader()
    loader.gate.clear()
    fleet = Fleet((spec_of(),), loader)
    fleet.start()
    await turns()
    closing = asyncio.ensure_future(fleet.close())
    await turns()
    loader.gate.set()
    await closing
    assert loader.n_loads == 1
    assert loader.is_all_closed


@on_loop
async def test_a_lost_backend_fails_its_jobs_and_is_loaded_anew() -> None:
    backends = [FakeBackend(failures={2: BackendLost("the device is gone")}), FakeBackend()]
    loader = FakeLoader(iter(backends).__next__)
    async with fleet_of(loader=loader) as fleet:
        await fleet.wait_ready()
        with pytest.raises(GenerationFailed, match="the device is gone"):
            await generate(fleet, 1)
        while fleet.statuses()[0].state != "ready":
            with pytest.raises(Unavailable):
                await generate(fleet, 2)
            await turns()
        assert len(await generate(fleet, 3)) == 4
        assert loader.n_loads == 2
        while not loader.opened[0].model.is_closed:  # beside the load of the next
            await turns()


@on_loop
async def test_a_backend_lost_again_at_once_stays_failed() -> None:
    loader = FakeLoader(lambda: FakeBackend(failures={0: BackendLost("the device is gone")}))
    async with fleet_of(loader=loader) as fleet:
        for job_id in (1, 2):
            while fleet.statuses()[0].state != "ready":
                await turns()
            with pytest.raises(GenerationFailed):
                await generate(fleet, job_id)
        while not loader.is_all_closed:
            await turns()
        assert loader.n_loads == 2
        with pytest.raises(Unavailable, match="again"):
            await generate(fleet, 3)


class LosingBoth(FakeLoader):
    """The first model that it opens loses both its contexts in their first steps."""

    def __call__(self, spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> FakeOpened:
        opened = super().__call__(spec, machine, on_progress)
        lost: dict[int, Exception] = {0: BackendLost("the device is gone")} if self.n_loads == 1 else {}
        opened.backend.failures = lost
        opened.embedder = opened.model.embedder = FakeEmbedBackend(failures=lost)
        opened.inputs = Inputs(model=spec.name, n_ctx=64, vocabulary=opened.model.vocab)
        return opened


@on_loop
async def test_a_model_that_loses_both_its_contexts_is_loaded_anew_once() -> None:
    loader = LosingBoth()

    async def embed() -> None:
        async with fleet.lease("") as replica:
            await replica.embed(EmbedRequest(inputs=("a",)))

    async with fleet_of(loader=loader) as fleet:
        await fleet.wait_ready()
        ends = await asyncio.gather(generate(fleet, 1), embed(), return_exceptions=True)
        assert [type(end) for end in ends] == [GenerationFailed, GenerationFailed]
        while fleet.statuses()[0].state != "ready":
            await turns()
        await embed()
        assert len(await generate(fleet, 2)) == 4
    assert loader.n_loads == 2


@on_loop
async def test_a_replica_that_is_lost_fails_its_streams_alone_and_is_told_apart() -> None:
    backends = [FakeBackend(failures={1: BackendLost("the device is gone")}), FakeBackend(), FakeBackend()]
    loader = FakeLoader(iter(backends).__next__)
    async with fleet_of(spec_of(replicas=2), loader=loader) as fleet:
        while [each.state for each in fleet.statuses()[0].replicas] != ["ready", "ready"]:
            await turns()
        ends = await asyncio.gather(*(generate(fleet, k, n_max=8) for k in range(1, 5)), return_exceptions=True)
        lost = [end for end in ends if isinstance(end, GenerationFailed)]
        assert 1 <= len(lost) <= 3
        assert all(len(end) == 8 for end in ends if isinstance(end, list))
        (status,) = fleet.statuses()
        assert status.state == "ready"
        assert len(await generate(fleet, 9)) == 4, "the other one answers on"
        while [each.state for each in fleet.statuses()[0].replicas] != ["ready", "ready"]:
            await turns()
        assert loader.n_loads == 3


@on_loop
async def test_changes_of_adapters_wait_for_each_other_until_every_replica_has_them() -> None:
    loader = FakeLoader()
    async with fleet_of(spec_of(replicas=2), loader=loader) as fleet:
        while [each.state for each in fleet.statuses()[0].replicas] != ["ready", "ready"]:
            await turns()
        first, second = (opened.model.adapters for opened in loader.opened)
        first.gate.clear()
        second.gate.clear()
        loading = asyncio.create_task(fleet.load_adapter("fake", AdapterSpec(name="a", path=Path("a.gguf"))))
        while not (first.entered.is_set() or second.entered.is_set()):
            await turns()
        one, other = (first, second) if first.entered.is_set() else (second, first)
        one.gate.set()
        while not other.entered.is_set():
            await turns()
        scaling = asyncio.create_task(fleet.scale_adapters("fake", {"a": 0.5}))
        await turns()
        other.gate.set()
        await loading
        await scaling
        (status,) = fleet.statuses()[0].adapters
        assert status.spec.default_scale == 0.5


@on_loop
async def test_a_fleet_that_is_closed_says_of_nothing_that_it_loads() -> None:
    """Also of what waited for memory that another was asked to give."""
    specs, devices = (spec_of("a", n_ctx=64), spec_of("b", n_ctx=64, load="hand")), BudgetedDevices({"d0": 10**8})
    async with fleet_of(*specs, devices=devices, facts=lambda spec: FileFacts(layers=(60 * 10**6,))) as fleet:
        await fleet.wait_ready()
        async with fleet.lease("a"):
            loading = asyncio.ensure_future(fleet.load("b"))
            while [status.state for status in fleet.statuses()] != ["draining", "loading"]:
                await turns()
    with pytest.raises(Unavailable, match="shutting down"):
        await loading


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_done_to_the_fleet_every_request_and_every_unload_ends(seed: int) -> None:
    """Two devices, more models than fit, clients that leave, unloads, other manifests, a device that is lost."""
    dice = random.Random(seed)
    sizes = {f"m{k}": dice.randint(10, 70) * 10**6 for k in range(5)}

    def made(name: str) -> ModelSpec:
        load = dice.choice(["request", "start"])
        return spec_of(name, n_ctx=64, n_slots=2, load=load, replicas=dice.choice([1, 2]), pinned=dice.random() < 0.1)

    def facts(spec: ModelSpec) -> FileFacts:
        return FileFacts(layers=(sizes[spec.name],), n_ctx_train=512)

    @on_loop
    async def law() -> None:
        devices = BudgetedDevices({"d0": 100 * 10**6, "d1": 80 * 10**6})
        async with fleet_of(*map(made, sizes), devices=devices, facts=facts) as fleet:

            async def ask(job_id: int) -> None:
                wants = Wants(waits=dice.choice([None, True]))
                with contextlib.suppress(Unavailable, Overloaded, GenerationFailed):
                    async with fleet.lease(dice.choice(list(sizes)), wants=wants) as replica:
                        with replica.stream([Job(id=job_id, tokens=array("i", [1, 2]), n_max=4)]) as stream:
                            async for _ in stream:
                                pass

            tasks = []
            for step in range(1, 151):
                tasks.append(asyncio.ensure_future(ask(step)))
                if dice.random() < 0.1:
                    dice.choice(tasks).cancel()
                match dice.randrange(25):
                    case 0:
                        tasks.append(asyncio.ensure_future(fleet.unload(dice.choice(list(sizes)))))
                    case 1:
                        await fleet.adopt(Manifest(models=tuple(map(made, sizes))))
                    case 2 if step > 75:  # before, both are there
                        fleet.quarantine("d1", "lost")
                    case _:
                        await turns(dice.randrange(6))
            for end in await asyncio.gather(*tasks, return_exceptions=True):
                assert end is None or isinstance(end, asyncio.CancelledError)

    law()
