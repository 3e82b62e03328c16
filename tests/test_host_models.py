"""Laws of a host and its models: how it begins with them and ends, and that real ones answer as they should."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from llamahost.core.errors import (
    LoadFailed,
    Unavailable,
)
from llamahost.core.events import Finished, Started
from llamahost.core.machine import Machine
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.sampling import SamplingOptions
from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from llamahost.host import AsyncHost
from tests.fleet.budgeted import BudgetedDevices
from tests.fleet.fakes import FakeLoader, FakeOpened, spec_of
from tests.hosted import at_rest, completion, events_of, text_of
from tests.on_loop import on_loop, turns


@on_loop
async def test_health_follows_the_load() -> None:
    loader = FakeLoader()
    loader.gate.clear()
    host = AsyncHost("folder/Some-Model.gguf", load=loader, n_ctx=64, aliases=("m",))
    assert host.models()[0].state == "unloaded"
    await host.start()
    await turns()
    health = host.health()
    assert (health.is_ready, health.is_stalled, health.models[0].state) == (False, False, "loading")
    loader.gate.set()
    await host.wait_ready()
    status = host.health().models[0]
    assert (status.name, status.aliases, status.state, status.progress) == ("Some-Model", ("m",), "ready", 1.0)
    assert host.health().is_ready
    await host.aclose()
    assert not host.health().is_ready


class EmbedsFirst(FakeLoader):
    """The model `vectors` tells that it embeds and generates nothing."""

    def __call__(self, spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> FakeOpened:
        opened = super().__call__(spec, machine, on_progress)
        if spec.name == "vectors":
            opened.card = replace(opened.card, generates=False, pooling="mean")
        return opened


@on_loop
async def test_what_a_load_told_that_a_model_can_do_is_known_until_its_file_is_another() -> None:
    vectors, talker = (spec_of(name, load="request") for name in ("vectors", "talker"))
    loader, devices = EmbedsFirst(), BudgetedDevices({"d0": 2**30})
    async with AsyncHost(Manifest(models=(vectors, talker)), load=loader, hardware=devices) as host:
        for model in ("vectors", "talker"):
            await host.load(model)
        for other_file, chosen in ((False, "talker"), (True, "vectors")):
            if other_file:
                await host.adopt(Manifest(models=(replace(vectors, path=Path("another.gguf")), talker)))
            for model in ("vectors", "talker"):
                await host.unload(model)
            assert not any(status.card for status in host.models()), "what is told of it is what it is now"
            events = await events_of(host, completion(model="auto"))
            assert next(event.model for event in events if isinstance(event, Started)) == chosen


@on_loop
async def test_entering_a_host_whose_model_does_not_load_raises_and_leaves_nothing() -> None:
    with pytest.raises(LoadFailed, match="no such file"):
        async with AsyncHost("x.gguf", load=FakeLoader(failures=[LoadFailed("no such file")])):
            pass


@on_loop
async def test_a_host_without_a_model_answers_unavailable() -> None:
    host = AsyncHost(None)
    await host.start()
    assert not host.health().is_ready
    with pytest.raises(Unavailable, match="no model"):
        await events_of(host, completion())
    await host.aclose()


def test_a_host_that_was_never_started_can_be_closed() -> None:
    asyncio.run(AsyncHost(None).aclose())


def test_options_are_checked_by_name() -> None:
    with pytest.raises(TypeError, match="did you mean `n_slots`"):
        AsyncHost("x.gguf", n_slot=2)  # type: ignore[call-arg]  # this is the mistake
    with pytest.raises(TypeError, match="a manifest holds its own"):
        AsyncHost(Manifest(models=(spec_of(),)), n_ctx=64)
    host = AsyncHost(ModelSpec(name="a", path=Path("a.gguf"), n_slots=3), name="b")
    assert host.models()[0].name == "b"


@pytest.mark.parametrize("kv_layout", ["split", "unified"])
@pytest.mark.parametrize("architecture", ["llama", "swa", "recurrent", "hybrid"])
def test_a_generated_model_serves_many_at_once_and_again(
    architecture: str, kv_layout: Literal["split", "unified"], request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(f"tiny_{architecture}")

    @on_loop
    async def law() -> None:
        async with AsyncHost(path, n_ctx=128, n_slots=4, kv_layout=kv_layout, n_threads=1) as host:
            greedy = Generation(max_tokens=12, sampling=SamplingOptions(temperature=0.0), ignore_eos=True)
            prompts = [f"{'a shared beginning of some length, ' * (k % 3)}and an end {k}" for k in range(10)]
            requests = [CompletionRequest(prompts=(prompt,), generation=greedy) for prompt in prompts]
            for _ in range(2):
                answers = await asyncio.gather(*(events_of(host, request) for request in requests))
                for events in answers:
                    assert isinstance(events[-1], Finished)
                    assert events[-1].usage.n_generated == 12
            await at_rest(host)

    law()


@on_loop
async def test_a_trained_model_tells_its_story(shared_models: Path) -> None:
    async with AsyncHost(shared_models / "stories260K.gguf", n_ctx=256, n_slots=2, n_threads=1) as host:
        greedy = Generation(max_tokens=24, sampling=SamplingOptions(temperature=0.0))
        request = CompletionRequest(prompts=("Once upon a time",), generation=greedy)
        assert text_of(await events_of(host, request)).startswith(", there was a little girl named Lily.")
