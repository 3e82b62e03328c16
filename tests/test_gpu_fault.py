"""A card that breaks, from NVML to the fleet: what was on it goes elsewhere, and answers there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import httpx

from llamahost.api.app import create_app
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.observe import FleetEvent, ModelChanged
from llamahost.fleet.machine.devices import Device
from llamahost.fleet.settings.manifest import ModelSpec, ServerSettings
from llamahost.host import AsyncHost
from llamahost.ops.gpu import Nvml
from llamahost.ops.gpu_monitor import GpuMonitor
from tests.api.sockets import listening
from tests.fakes import FakeBackend, Gated
from tests.fleet.budgeted import BudgetedDevices
from tests.fleet.fakes import FakeLoader, spec_of
from tests.on_loop import on_loop
from tests.ops.fake_nvml import Card, FakeNvml


@dataclass(frozen=True)
class Cards(BudgetedDevices):
    """Two devices that know their cards as llama.cpp tells them."""

    def all(self) -> tuple[Device, ...]:
        return tuple(replace(each, pci_id=f"0000:3{k}:00.0") for k, each in enumerate(super().all()))


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
