"""A card that breaks, from NVML to the fleet: what was on it goes elsewhere, and answers there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import httpx
import pytest

from llamahost.api.app import create_app
from llamahost.core.errors import Unavailable
from llamahost.core.machine import Machine
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.observe import FleetEvent, ModelChanged
from llamahost.fleet.machine.devices import Device
from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings
from llamahost.host import AsyncHost
from llamahost.ops.gpu import Nvml
from llamahost.ops.gpu_monitor import GpuMonitor
from tests.api.sockets import listening
from tests.fakes import FakeBackend, Gated
from tests.fleet.budgeted import BudgetedDevices
from tests.fleet.fakes import FakeLoader, FakeOpened, spec_of
from tests.on_loop import LIMIT_S, on_loop
from tests.ops.fake_nvml import Card, FakeNvml


@dataclass(frozen=True)
class Cards(BudgetedDevices):
    """Two devices that know their cards as llama.cpp tells them."""

    def all(self) -> tuple[Device, ...]:
        return tuple(replace(each, pci_id=f"0000:3{k}:00.0") for k, each in enumerate(super().all()))


class HangsIfNamedSo(FakeLoader):
    """The steps of the model `hung` do not return."""

    def made_for(self, spec: ModelSpec) -> FakeBackend:
        return Gated() if spec.name == "hung" else FakeBackend()


class HangsAtFirst(FakeLoader):
    """The first backend's steps do not return."""

    def made_for(self, spec: ModelSpec) -> FakeBackend:
        return FakeBackend() if self.opened else Gated()


@on_loop
async def test_a_step_that_hangs_on_a_broken_card_keeps_its_model_from_nobody() -> None:
    loader = HangsAtFirst()
    places = {"CUDA0": "0000:30:00.0", "CUDA1": "0000:31:00.0"}
    spec = spec_of("m", when_loading="wait")
    async with AsyncHost(spec, load=loader, hardware=Cards(dict.fromkeys(places, 2**30))) as host:
        await host.wait_ready()
        (first,) = host.models()[0].replicas[0].devices
        hung = loader.backend
        assert isinstance(hung, Gated)
        try:
            request = CompletionRequest(prompts=("a",), generation=Generation(max_tokens=2))
            answer = asyncio.ensure_future(anext(host.complete(request)))
            await asyncio.to_thread(hung.entered.acquire)
            host.quarantine(places[first], "the GPU has fallen off the bus")
            assert await answer, "it is asked again elsewhere, though that step never returns"
            (moved,) = host.models()[0].replicas
            assert moved.devices != (first,)
            assert not hung.is_closed
        finally:
            hung.open()


@on_loop
async def test_a_card_that_breaks_before_the_devices_are_known_gets_no_model() -> None:
    host = AsyncHost(spec_of("m"), load=FakeLoader(), hardware=Cards({"CUDA0": 2**30, "CUDA1": 2**29}))
    await host.start()
    host.quarantine("00000000:30:00.0", "the GPU has fallen off the bus")
    assert not host._fleet.devices(), "it came first"
    await host.wait_ready()
    assert host.models()[0].replicas[0].devices == ("CUDA1",), "which has less room"
    await host.aclose()


@on_loop
async def test_what_was_leaving_a_card_when_it_broke_is_neither_waited_for_nor_freed() -> None:
    """An idle model waits for the worker, which waits for another model's step."""
    loader = HangsIfNamedSo()
    manifest = Manifest(models=(spec_of("hung"), spec_of("idle"), spec_of("kept", keep_prefixes=True)))
    async with AsyncHost(manifest, load=loader, hardware=Cards({"CUDA0": 2**30})) as host:
        await host.wait_ready()
        opened = {each.spec.name: each for each in loader.opened}
        hung = opened["hung"].backend
        assert isinstance(hung, Gated)
        try:
            request = CompletionRequest(model="hung", prompts=("a",), generation=Generation(max_tokens=2))
            answer = asyncio.ensure_future(anext(host.complete(request)))
            await asyncio.to_thread(hung.entered.acquire)
            leaving = [asyncio.ensure_future(host.unload(name)) for name in ("idle", "kept")]
            for _ in range(3):  # it is asked, it is decided, it is begun
                await asyncio.sleep(0)
            assert not any(host._fleet._crew.places[name].running for name in ("idle", "kept"))
            host.quarantine("0000:30:00.0", "the GPU has fallen off the bus")
            await asyncio.gather(*leaving)
            assert all(each.model.is_forsaken for each in opened.values())
            with pytest.raises(Unavailable):
                await answer
        finally:
            hung.open()
    assert not any(each.model.is_closed for each in opened.values())


@on_loop
async def test_what_was_loading_when_its_card_broke_is_not_freed() -> None:
    begun = threading.Event()

    class Slow(FakeLoader):
        def __call__(self, spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> FakeOpened:
            begun.set()
            return super().__call__(spec, machine, on_progress)

    loader = Slow()
    loader.gate.clear()
    host = AsyncHost(spec_of("m"), load=loader, hardware=Cards({"CUDA0": 2**30}))
    await host.start()
    assert await asyncio.to_thread(begun.wait, LIMIT_S)
    gone = asyncio.Event()
    host._fleet.listen(lambda event: gone.set() if isinstance(event, ModelChanged) and not places() else None)

    def places() -> bool:
        return any(model.replicas for model in host.models())

    host.quarantine("0000:30:00.0", "the GPU has fallen off the bus")
    loader.gate.set()
    await gone.wait()
    await host.aclose()
    (opened,) = loader.opened
    assert opened.model.is_forsaken
    assert not opened.model.is_closed


@on_loop
async def test_a_card_with_a_fatal_xid_is_used_no_more_and_its_model_comes_back_on_another() -> None:
    fake = FakeNvml(Card(), Card())
    loader = FakeLoader()
    host = AsyncHost(spec_of("m"), load=loader, hardware=Cards({"CUDA0": 2**30, "CUDA1": 2**30}))
    gpus = GpuMonitor(0.01, lambda: Nvml(fake))
    app = create_app(host, ServerSettings(), gpus=gpus)
    moved, sampled = asyncio.Event(), asyncio.Event()
    gpus.listen(lambda _: sampled.set())

    def heard(event: FleetEvent) -> None:
        model = host.models()[0]
        if isinstance(event, ModelChanged) and model.state == "ready" and devices() == [second]:
            moved.set()  # whichever came last: the new replica, or the end of the old

    def devices() -> list[str]:
        return [device for replica in host.models()[0].replicas for device in replica.devices]

    async with listening(app) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await host.wait_ready()
        (first,) = devices()
        second = {"CUDA0": "CUDA1", "CUDA1": "CUDA0"}[first]
        host.listen(heard)
        await sampled.wait()  # Xids are heard from then on
        fake._happens(int(first[-1]), 31)  # a program's own fault
        fake._happens(int(first[-1]), 79)
        await moved.wait()
        model = (await client.get("/api/models/m")).json()
        assert (model["state"], model["devices"]) == ("ready", [second])
        assert [opened.model.is_forsaken for opened in loader.opened] == [True, False], (
            "what the card has is not touched"
        )
        answer = await client.post("/v1/completions", json={"model": "m", "prompt": "a", "max_tokens": 2})
        assert answer.status_code == 200
        metrics = (await client.get("/metrics")).text
        assert f'llamahost_gpu_faults_total{{gpu="{first[-1]}",uuid="GPU-{first[-1]}",xid="79"}} 1.0' in metrics
