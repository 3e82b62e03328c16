"""The whole fleet on several devices, all of them this CPU with a budget each: llama.cpp really runs on each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamahost.core.errors import ManifestError, Unavailable
from llamahost.core.events import Delta, Event, Finished
from llamahost.core.machine import Machine
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.observe import FleetEvent, ModelChanged
from llamahost.core.sampling import SamplingOptions
from llamahost.fleet.machine.devices import Device
from llamahost.fleet.machine.facts import facts_of
from llamahost.fleet.machine.fit import Shape
from llamahost.fleet.machine.footprint import footprint, shape_of_inputs
from llamahost.fleet.replica.loader import load
from llamahost.fleet.routing.policy import Wants
from llamahost.fleet.settings.manifest import BUILTIN_PATH, EMBED_PATH, Manifest
from llamahost.host import AsyncHost
from tests.fleet.budgeted import MB, BudgetedDevices, host_of, spec
from tests.on_loop import on_loop


def taken_by(path: Path, n: int = 1) -> int:
    """Room for so many of these models, and not for one more."""
    one = spec("x", path)
    shape = Shape(n_ctx=64, n_slots=2, n_cells=128, is_unified=False)
    return int((n + 0.3) * footprint(one, facts_of(one), shape).total_bytes)


async def ask(host: AsyncHost, model: str, n_tokens: int = 4, **options: Any) -> list[Event]:
    greedy = Generation(max_tokens=n_tokens, sampling=SamplingOptions(temperature=0.0), ignore_eos=True, **options)
    request = CompletionRequest(prompts=("a",), model=model, generation=greedy)
    return [event async for event in host.complete(request)]


async def until(host: AsyncHost, holds: Callable[[], bool]) -> None:
    """Wait for what the fleet comes to."""
    changed = asyncio.Event()
    unlisten = host._fleet.listen(lambda _: changed.set())
    while not holds():
        await changed.wait()
        changed.clear()
    unlisten()


def states(host: AsyncHost) -> dict[str, str]:
    return {each.name: each.state for each in host.models()}


@on_loop
async def test_models_come_on_request_and_leave_for_each_other(tiny_llama: Path) -> None:
    specs = [spec(name, tiny_llama) for name in "abc"]
    async with host_of(*specs, budgets={"cpu-0": taken_by(tiny_llama, 2)}) as host:
        assert states(host) == {"a": "unloaded", "b": "unloaded", "c": "unloaded"}
        assert host.health().is_ready
        for name in "abca":
            assert isinstance((await ask(host, name))[-1], Finished)
        assert states(host)["a"] == "ready"
        assert list(states(host).values()).count("ready") <= 2


@on_loop
async def test_many_requests_for_more_models_than_fit_are_all_answered(tiny_llama: Path) -> None:
    specs = [spec(name, tiny_llama) for name in "abcd"]
    one = taken_by(tiny_llama)
    async with host_of(*specs, budgets={"cpu-0": one, "cpu-1": one}) as host:
        answers = await asyncio.gather(*(ask(host, "abcd"[k % 4]) for k in range(24)))
        assert all(isinstance(events[-1], Finished) for events in answers)
        devices = [each.devices for model in host.models() for each in model.replicas if each.state == "ready"]
        assert len(devices) == len(set(devices)), "each on a device of its own"


@on_loop
async def test_replicas_answer_side_by_side_on_devices_of_their_own(tiny_llama: Path) -> None:
    one = taken_by(tiny_llama)
    async with host_of(spec("a", tiny_llama, replicas=2, load="start"), budgets={"cpu-0": one, "cpu-1": one}) as host:
        await until(host, lambda: [each.state for each in host.models()[0].replicas] == ["ready", "ready"])
        assert [each.last_used for each in host.models()[0].replicas] == [0.0, 0.0]
        answers = await asyncio.gather(*(ask(host, "a", 16) for _ in range(4)))
        texts = {"".join(event.text for event in events if isinstance(event, Delta)) for events in answers}
        assert len(texts) == 1, "both replicas say the same"
        (status,) = host.models()
        assert status.n_slots == 4
        told = [each.stats for each in status.replicas if each.stats is not None]
        assert len(told) == 2
        assert all(each.last_used for each in status.replicas)
        assert all(each.n_steps > 0 for each in told)
        assert status.stats is not None
        assert status.stats.n_cells == sum(each.n_cells for each in told), "a model's figures are of all its replicas"
        assert status.stats.n_tokens_in == sum(each.n_tokens_in for each in told)


@on_loop
async def test_a_replica_that_has_no_room_is_told_of_a_model_that_answers(tiny_llama: Path) -> None:
    one = spec("a", tiny_llama, replicas=3)
    n_bytes = footprint(one, facts_of(one), Shape(n_ctx=64, n_slots=2, n_cells=128, is_unified=False)).total_bytes
    async with host_of(one, budgets={"cpu-0": 2 * n_bytes + n_bytes // 2}) as host:
        assert isinstance((await ask(host, "a"))[-1], Finished)
        (status,) = host.models()
        assert (status.state, status.reason) == ("ready", "2 of 3 replicas: there is no room for more")
        await host.adopt(Manifest(models=(replace(one, replicas=2),)))
        assert host.models()[0].reason == ""


@on_loop
async def test_what_does_not_fit_is_refused_with_the_sum_and_logged(
    tiny_llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with host_of(spec("a", tiny_llama), budgets={"cpu-0": 10_000}) as host:
        for _ in range(3):  # each of whom is told; the log has it once
            with pytest.raises(Unavailable, match=r"`a` does not fit: it takes at least .* \(weights .*\); on cpu-0"):
                await ask(host, "a")
        assert states(host) == {"a": "failed"}
        assert [line.partition(":")[0] for line in caplog.messages].count("`a` does not fit") == 1


@on_loop
async def test_a_model_in_use_is_not_taken_away_and_the_newcomer_waits(tiny_llama: Path) -> None:
    a, b = spec("a", tiny_llama, n_ctx=2048, kv_layout="unified", n_cells=2048, n_slots=1), spec("b", tiny_llama)
    facts = facts_of(a)
    large = footprint(a, facts, Shape(n_ctx=2048, n_slots=1, n_cells=2048, is_unified=True)).total_bytes + 1000
    async with host_of(a, b, budgets={"cpu-0": large}) as host:
        running = host.complete(
            CompletionRequest(prompts=("a",), model="a", generation=Generation(max_tokens=120, ignore_eos=True))
        )
        assert await anext(running)
        newcomer = asyncio.ensure_future(ask(host, "b"))
        await asyncio.sleep(0)
        events = [event async for event in running]
        assert isinstance(events[-1], Finished), "to its end, though b waited"
        assert isinstance((await newcomer)[-1], Finished)


@on_loop
async def test_a_wait_ends_with_the_request_s_time(tiny_llama: Path) -> None:
    a, b = spec("a", tiny_llama), spec("b", tiny_llama)
    async with host_of(a, b, budgets={"cpu-0": taken_by(tiny_llama)}) as host:
        async with host._fleet.lease("a"):
            soon = asyncio.get_running_loop().time() + 0.01
            with pytest.raises(Unavailable, match=r"`b` (waits for memory|is still loading)"):
                async with host._fleet.lease("b", wants=Wants(deadline=soon)):
                    pass
            with pytest.raises(Unavailable, match=r"`b` (waits for memory|is still loading)"):
                async with host._fleet.lease("b", wants=Wants(waits=False)):
                    pass
        assert isinstance((await ask(host, "a"))[-1], Finished)


@on_loop
async def test_by_hand_a_model_is_loaded_with_other_settings_and_taken_away(tiny_llama: Path) -> None:
    async with host_of(spec("a", tiny_llama, load="hand"), budgets={"cpu-0": 100 * MB}) as host:
        with pytest.raises(Unavailable, match="by hand"):
            await ask(host, "a")
        fleet = host._fleet
        with pytest.raises(ManifestError, match="n_slots"):
            await fleet.load("a", {"n_slots": 0})
        await fleet.load("a")
        await fleet.load("a")
        assert host.models()[0].n_slots == 2
        await fleet.load("a", {"n_slots": 3})
        assert host.models()[0].n_slots == 3
        await fleet.unload("a")
        await fleet.unload("a")
        assert states(host) == {"a": "unloaded"}


@on_loop
async def test_another_manifest_touches_only_what_changed_and_is_told(tiny_llama: Path) -> None:
    a, b = (spec(name, tiny_llama, load="start") for name in "ab")
    async with host_of(a, b, budgets={"cpu-0": 100 * MB}) as host:
        told: list[FleetEvent] = []
        unlisten = host._fleet.listen(told.append)
        async with host._fleet.lease("a") as before:
            await host.adopt(Manifest(models=(replace(a, aliases=("z",)), spec("c", tiny_llama))))
            async with host._fleet.lease("z") as after:
                assert before is after
        assert states(host).keys() == {"a", "c"}
        assert isinstance((await ask(host, "c"))[-1], Finished)
        unlisten()
    changes = [(each.model, each.state) for each in told if isinstance(each, ModelChanged) and each.replica == ""]
    assert ("c", "loading") in changes
    assert ("c", "ready") in changes
    assert not any(name == "a" for name, _ in changes)


@on_loop
async def test_a_lost_device_ends_its_streams_and_the_model_comes_back_elsewhere(tiny_llama: Path) -> None:
    one = taken_by(tiny_llama) + 10 * MB
    a = spec("a", tiny_llama, load="start", n_ctx=1024, n_slots=1)
    async with host_of(a, budgets={"cpu-0": one, "cpu-1": one - 1}) as host:
        running = host.complete(
            CompletionRequest(prompts=("a",), model="a", generation=Generation(max_tokens=900, ignore_eos=True))
        )
        await anext(running)
        (replica,) = host.models()[0].replicas
        host._fleet.quarantine(replica.devices[0], "Xid 79")
        with pytest.raises(Unavailable, match="lost its device cpu-0: Xid 79"):
            async for _ in running:
                pass
        await until(host, lambda: states(host)["a"] == "ready")
        assert isinstance((await ask(host, "a"))[-1], Finished)
        assert host.models()[0].replicas[-1].devices == ("cpu-1",)


class CardAndHost(BudgetedDevices):
    """The first is taken for a GPU; llama.cpp, built for the CPU alone, computes there all the same."""

    def all(self) -> tuple[Device, ...]:
        return tuple(replace(each, kind="cpu" if each.id == "cpu" else "gpu") for each in super().all())


@on_loop
async def test_what_the_card_has_no_room_for_stays_with_the_cpu_and_that_is_told(
    tiny_llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    devices = CardAndHost({"CUDA0": taken_by(tiny_llama) * 2 // 3, "cpu": 100 * MB})
    one = spec("a", tiny_llama)
    async with AsyncHost(Manifest(models=(one,)), hardware=devices) as host:
        assert isinstance((await ask(host, "a"))[-1], Finished)
        (replica,) = host.models()[0].replicas
        assert replica.devices == ("CUDA0",)
        assert " layers are on CUDA0, the others on the CPU: " in replica.note
        assert f"a#0: {replica.note}" in caplog.text
    whole = replace(one, n_gpu_layers=-1)
    async with AsyncHost(Manifest(models=(whole,)), hardware=devices) as host:
        with pytest.raises(Unavailable, match=r"`a` does not fit: .* n_gpu_layers = \d+ would fit"):
            await ask(host, "a")


@pytest.mark.parametrize("kv_layout", ["split", "unified"])
@pytest.mark.parametrize("architecture", ["llama", "swa", "recurrent", "hybrid"])
def test_prefixes_survive_an_unload_where_that_is_asked(
    architecture: str, kv_layout: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(f"tiny_{architecture}")

    @on_loop
    async def law() -> None:
        prompt = tuple(range(20, 70))
        greedy = Generation(max_tokens=8, sampling=SamplingOptions(temperature=0.0), ignore_eos=True)
        longer = CompletionRequest(prompts=((*prompt, 71, 72, 73),), model="a", generation=greedy)
        found = []
        for is_kept in (False, True):
            a = spec("a", path, n_ctx=256, kv_layout=kv_layout, keep_prefixes=is_kept)
            async with host_of(a, budgets={"cpu-0": 100 * MB}) as host:
                first = CompletionRequest(prompts=(prompt,), model="a", generation=Generation(max_tokens=0))
                assert [event async for event in host.complete(first)]
                await host.unload("a")
                events = [event async for event in host.complete(longer)]
                (end,) = (event for event in events if isinstance(event, Finished))
                assert (end.usage.n_cached == len(prompt)) == is_kept
                found.append("".join(event.text for event in events if isinstance(event, Delta)))
        assert found[0] == found[1]

    law()


@pytest.mark.parametrize("architecture", ["llama", "recurrent", "hybrid"])
def test_the_estimate_is_near_what_llama_cpp_takes(architecture: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(f"tiny_{architecture}")
    one = spec("x", path, n_ctx=1024, n_slots=4, n_ubatch=256, n_batch=1024, kv_layout="split")
    estimated = footprint(one, facts_of(one), Shape(n_ctx=1024, n_slots=4, n_cells=4096, is_unified=False))
    loaded = load(one, Machine(n_cpus=1, memory_bytes=2**33, available_bytes=2**33))
    try:
        measured = loaded.measured(("cpu-0",))
        assert measured.footprint.weights_bytes == pytest.approx(estimated.weights_bytes, rel=0.1)
        assert measured.footprint.kv_bytes == pytest.approx(estimated.kv_bytes, rel=0.1)
        assert measured.bytes["cpu-0"] == measured.footprint.total_bytes
        assert measured.footprint.total_bytes < 1.3 * estimated.total_bytes
        assert measured.footprint.total_bytes > 0.7 * estimated.total_bytes
    finally:
        loaded.close()


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (EMBED_PATH, {}),
        (EMBED_PATH, {"n_ctx": 64}),  # a step holds more than an input may
        (EMBED_PATH, {"n_ctx": 4096}),  # more than it has positions for
        (BUILTIN_PATH, {"embeddings": True}),  # beside what it answers with, and in pieces
        (BUILTIN_PATH, {"embeddings": True, "pooling": "mean", "n_ctx": 1024}),
    ],
)
def test_so_is_that_of_what_embeds_with_the_rows_that_a_full_step_takes(path: Path, options: dict[str, Any]) -> None:
    one = spec("x", path, **{"n_ctx": 512, "n_slots": 1, **options})
    facts = facts_of(one)
    shape = shape_of_inputs(one, facts)
    loaded = load(one, Machine(n_cpus=1, memory_bytes=2**33, available_bytes=2**33))
    try:
        assert loaded.embedder is not None
        found, wanted = footprint(one, facts, shape), loaded.measured(("cpu-0",)).footprint
        assert found.kv_bytes == pytest.approx(wanted.kv_bytes, rel=0.01)
        assert 0.95 < found.total_bytes / wanted.total_bytes < 1.3
        rows = loaded.embedder.n_batch * (facts.n_vocab + facts.n_embd) * 4  # a logit of each word, of each token
        assert sum(n for (_, what), n in loaded.embedder.buffers.items() if what == "output") == rows
    finally:
        loaded.close()


def test_tensors_go_where_a_pattern_sends_them_or_the_load_says_why_not(tiny_llama: Path) -> None:
    machine = Machine(n_cpus=1, memory_bytes=2**33, available_bytes=2**33)
    load(spec("x", tiny_llama, override_tensor=(r"ffn_.*=CPU",), mmap=False, n_cpu_moe=2), machine).close()
    with pytest.raises(Exception, match="there is no device `CUDA9`; tensors can go to CPU"):
        load(spec("x", tiny_llama, override_tensor=(r"ffn_.*=CUDA9",)), machine)


def test_a_rope_of_another_base_or_stretched_by_yarn_is_another_model(tiny_llama: Path) -> None:
    @on_loop
    async def law() -> None:
        texts = set()
        yarn = {"rope_scaling": "yarn", "rope_freq_scale": 0.25, "yarn_orig_ctx": 16, "yarn_beta_fast": 32.0}
        for rope in ({}, {"rope_freq_base": 500.0}, yarn, {**yarn, "yarn_ext_factor": 0.0}):
            one = spec("a", tiny_llama, load="start", **rope)
            async with host_of(one, budgets={"cpu-0": 100 * MB}) as host:
                request = CompletionRequest(
                    prompts=("a long enough beginning",),
                    generation=Generation(max_tokens=24, sampling=SamplingOptions(temperature=0.0), ignore_eos=True),
                )
                texts.add("".join([e.text async for e in host.complete(request) if isinstance(e, Delta)]))
        assert len(texts) == 4

    law()
