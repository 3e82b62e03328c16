"""Laws of a fleet whose manifest is read again: whoever waits is told, and what has left leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamahost.core.errors import InvalidRequest, LoadFailed, Unavailable
from llamahost.core.machine import Machine
from llamahost.core.messages import CompletionRequest
from llamahost.core.observe import LoadProgress, ModelChanged
from llamahost.core.sampling import Sampling
from llamahost.fleet.fleet import Fleet
from llamahost.fleet.machine.devices import HostDevices
from llamahost.fleet.machine.fit import Shape
from llamahost.fleet.machine.footprint import FileFacts, footprint
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings
from tests.fleet.budgeted import BudgetedDevices
from tests.fleet.fakes import FakeLoader, FakeOpened, spec_of
from tests.fleet.fleets import fleet_of
from tests.on_loop import LIMIT_S, on_loop, turns


async def named(fleet: Fleet, name: str) -> str:
    async with fleet.lease(name) as replica:
        return replica.spec.name


@on_loop
async def test_who_waits_for_a_model_that_leaves_the_manifest_is_told() -> None:
    gate = threading.Event()

    def facts(spec: ModelSpec) -> FileFacts:
        assert gate.wait(LIMIT_S)
        return FileFacts()

    other = spec_of("b", load="request")
    async with fleet_of(spec_of("a", load="request"), other, facts=facts) as fleet:
        waiting = asyncio.ensure_future(named(fleet, "a"))
        await turns()
        await fleet.adopt(Manifest(models=(other,)))
        with pytest.raises(Unavailable, match="taken from the manifest"):
            await waiting
        gate.set()


@on_loop
async def test_a_model_whose_load_failed_after_it_left_can_come_back() -> None:
    loader = FakeLoader(failures=[LoadFailed("no")])
    loader.gate.clear()
    leaves, stays = spec_of("a"), spec_of("b", load="hand")
    async with fleet_of(leaves, stays, loader=loader) as fleet:
        await turns()
        is_gone = asyncio.Event()
        left = ModelChanged("a", "a#0", "unloaded")
        unlisten = fleet.listen(lambda event: is_gone.set() if event == left else None)
        await fleet.adopt(Manifest(models=(stays,)))
        loader.gate.set()
        await is_gone.wait()
        unlisten()
        await fleet.adopt(Manifest(models=(leaves, stays)))
        await fleet.wait_ready()
        assert await named(fleet, "a") == "a"


@on_loop
async def test_what_left_is_brought_back_by_no_other_and_answers_nobody() -> None:
    leaves, stays = spec_of("a"), spec_of("b")
    async with fleet_of(leaves, stays) as fleet:
        await fleet.wait_ready()
        async with fleet.lease("a"):
            await fleet.adopt(Manifest(models=(stays,)))
            await fleet.load("b", {"n_slots": 2})
            assert [status.name for status in fleet.statuses()] == ["b"]
            assert await named(fleet, "a") == "b", "one model answers to any name"
            await fleet.adopt(Manifest())
            with pytest.raises(Unavailable, match="no model"):
                await named(fleet, "a")


@on_loop
async def test_who_waits_while_it_is_unloaded_by_hand_is_told_so() -> None:
    loader = FakeLoader()
    loader.gate.clear()
    async with fleet_of(spec_of("a", load="request"), loader=loader) as fleet:
        waiting = asyncio.ensure_future(named(fleet, "a"))
        await turns()
        unloading = asyncio.ensure_future(fleet.unload("a"))
        with pytest.raises(Unavailable, match="unloaded by hand"):
            await waiting
        loader.gate.set()
        await unloading


@on_loop
async def test_nothing_is_loaded_by_hand_while_the_fleet_drains() -> None:
    async with fleet_of(spec_of("a", load="hand")) as fleet:
        fleet.drain()
        with pytest.raises(Unavailable, match="shutting down"):
            await fleet.load("a")


class SlowOnce(HostDevices):
    """Says what is free only when the gate is open, the first time that it is asked while it `is_slow`."""

    gate = threading.Event()
    is_slow = False

    def free_bytes(self) -> Mapping[str, int]:
        if SlowOnce.is_slow:
            SlowOnce.is_slow = False
            assert self.gate.wait(LIMIT_S)
        return super().free_bytes()


@on_loop
async def test_of_two_manifests_the_one_that_was_read_last_holds() -> None:
    hardware = SlowOnce(blocks=True)
    async with fleet_of(spec_of("a", load="hand"), devices=hardware) as fleet:
        await fleet.load("a")
        SlowOnce.is_slow = True
        adopting = [
            asyncio.ensure_future(fleet.adopt(Manifest(models=(spec_of(name, load="hand"),)))) for name in ("b", "c")
        ]
        await turns()
        hardware.gate.set()
        await asyncio.gather(*adopting)
        assert [status.name for status in fleet.statuses()] == ["c"]


class OpensWrong(FakeLoader):
    """The first model that it opens cannot be served."""

    def __call__(self, spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> FakeOpened:
        opened = super().__call__(spec, machine, on_progress)
        if len(self.opened) > 1:
            return opened
        return _Unmeasured(**{name: getattr(opened, name) for name in FakeOpened.__dataclass_fields__})


class _Unmeasured(FakeOpened):
    def measured(self, devices: tuple[str, ...]) -> Any:
        raise ValueError("a bug")


@on_loop
async def test_what_fails_between_a_load_and_its_first_lease_is_told_and_closed() -> None:
    loader = OpensWrong()
    async with fleet_of(spec_of("a", load="request"), loader=loader) as fleet:
        with pytest.raises(Unavailable, match="a bug"):
            await named(fleet, "a")
        assert loader.is_all_closed
        assert fleet.statuses()[0].state == "failed"


class ClosesBadly(FakeLoader):
    """Models that raise when they are closed."""

    def __call__(self, spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> FakeOpened:
        opened = super().__call__(spec, machine, on_progress)
        close = opened.model.close

        def fails() -> None:
            close()
            raise OSError("a bug")

        opened.model.close = fails  # type: ignore[method-assign]  # this one alone
        return opened


@on_loop
async def test_what_could_not_be_closed_gives_back_its_memory_all_the_same() -> None:
    loader = ClosesBadly()
    size = FileFacts(layers=(60,), n_ctx_train=64)
    specs = [spec_of(name, load="request", n_ctx=64, n_slots=1, n_batch=1) for name in "ab"]
    budget = footprint(specs[0], size, Shape(n_ctx=64, n_slots=1, n_cells=64, is_unified=False)).total_bytes
    devices = BudgetedDevices({"cpu": budget * 3 // 2})
    async with fleet_of(*specs, loader=loader, devices=devices, facts=lambda spec: size) as fleet:
        for name in "aba":
            assert await named(fleet, name) == name


@on_loop
async def _bounded_anew() -> None:
    size = FileFacts(layers=(60 * 2**20,), n_ctx_train=64)
    a, b = (spec_of(name, load="request", n_ctx=64, n_slots=1) for name in "ab")
    devices = HostDevices(80 * 2**20)
    async with fleet_of(a, b, devices=devices, facts=lambda spec: size) as fleet:
        await named(fleet, "a")
        await named(fleet, "b")
        assert [status.state for status in fleet.statuses()] == ["unloaded", "ready"]
        await fleet.adopt(Manifest(models=(a, b), server=ServerSettings(host_bytes=200 * 2**20)))
        await named(fleet, "a")
        assert [status.state for status in fleet.statuses()] == ["ready", "ready"]


def test_a_manifest_that_is_read_again_bounds_the_memory_anew() -> None:
    _bounded_anew()


@on_loop
async def test_defaults_and_bounds_of_requests_change_without_another_load() -> None:
    loader, begun = FakeLoader(), asyncio.Event()
    was = spec_of("a", load="request", max_queue=0, sampling={"temperature": 0.5})
    now = replace(was, max_queue=9, sampling={"top_k": 7}, max_sampling={"max_tokens": 3}, keep_prefixes=True)
    async with fleet_of(was, replace(was, name="b"), loader=loader) as fleet:
        await named(fleet, "a")
        loader.gate.clear()
        fleet.listen(lambda event: begun.set() if type(event) is LoadProgress else None)
        loading = asyncio.ensure_future(named(fleet, "b"))
        await begun.wait()
        await fleet.adopt(Manifest(models=(now, replace(now, name="b"))))
        loader.gate.set()
        await loading
        for place in fleet._crew.served:
            (running,) = place.running.values()
            prepared = await running.replica.prepare(CompletionRequest(model="", prompts=("a",)))
            (job,) = prepared.jobs
            assert (job.sampling.temperature, job.sampling.top_k, job.n_max) == (Sampling().temperature, 7, 3)
            assert running.n_room == running.replica.card.n_slots + 9
        assert loader.n_loads == 2


def test_a_model_whose_file_is_another_one_is_loaded_anew(caplog: pytest.LogCaptureFixture) -> None:
    _replaced(caplog)


@on_loop
async def _replaced(caplog: pytest.LogCaptureFixture) -> None:
    stamps: dict[str, object] = {"a": 1, "b": 1}
    loader, manifest = FakeLoader(), Manifest(models=(spec_of("a"), spec_of("b")))
    trouble: Exception = LoadFailed("it is gone")

    def facts(spec: ModelSpec) -> FileFacts:
        if spec.name not in stamps:
            raise trouble
        return FileFacts(layers=(2**20,), n_ctx_train=64, stamp=stamps[spec.name])

    async with fleet_of(*manifest.models, loader=loader, facts=facts) as fleet:
        await fleet.wait_ready()
        await fleet.adopt(manifest)
        del stamps["b"]
        for trouble in (OSError(errno.EIO, "Input/output error"), LoadFailed("it is gone")):
            await fleet.adopt(manifest)
            assert f"`b` serves on, though its file could not be loaded now: {trouble}" in caplog.text
        assert loader.n_loads == 2
        stamps["a"] = 2
        loader.gate.clear()
        gone = asyncio.Event()
        fleet.listen(lambda event: gone.set() if event == ModelChanged("a", "a#0", "unloaded", "") else None)
        for _ in range(2):  # what is being loaded is of the file as it is
            await fleet.adopt(manifest)
            assert await named(fleet, "a") == "a"
        loader.gate.set()
        await gone.wait()
        assert [each.id for each in fleet.statuses()[0].replicas] == ["a#1"]
        assert [each.spec.name for each in loader.opened][2:] == ["a"]


@on_loop
async def _waiting(caplog: pytest.LogCaptureFixture) -> None:
    tls: dict[str, Any] = {"tls_cert": Path("c"), "tls_key": Path("k")}
    cases: tuple[tuple[dict[str, Any], dict[str, Any], tuple[str, ...], dict[str, Any]], ...] = (
        ({}, {"port": 9000, "stall_s": 7.0, "api_key": "a"}, ("port",), {"stall_s": 7.0, "api_key": "a"}),
        ({}, tls, ("tls_cert", "tls_key"), {}),
        (tls, {}, ("tls_cert", "tls_key"), tls),
        (tls, {"tls_cert": Path("d")}, (), {"tls_cert": Path("d")}),
    )
    for running, wanted, waiting, holds in cases:
        async with fleet_of(spec_of("a"), settings=ServerSettings(**running)) as fleet:
            manifest = Manifest(models=(spec_of("a"),), server=ServerSettings(**wanted))
            for _ in range(2):  # it waits until there is one
                caplog.clear()
                assert await fleet.adopt(manifest) == waiting
                assert fleet._crew.settings == ServerSettings(**holds)
                told = f"{', '.join(waiting)} of [server] changed: that waits for a restart"
                assert caplog.messages == ([told] if waiting else [])
            assert fleet._outbox is not None
            assert fleet._outbox.stall_s == fleet._crew.settings.stall_s


def test_what_a_server_is_found_by_waits_for_a_restart_and_that_is_told_as_long_as_it_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _waiting(caplog)


@on_loop
async def test_of_adapters_whose_files_are_others_by_now_one_that_cannot_be_loaded_keeps_no_other_from_it() -> None:
    loader = FakeLoader()
    async with fleet_of(spec_of(), loader=loader) as fleet:
        await fleet.wait_ready()
        for name in "ab":
            await fleet.load_adapter("fake", AdapterSpec(name=name, path=Path(f"{name}.gguf")))
        opened = loader.opened[0].model.adapters
        opened.replaced, opened.bad = {"a", "b"}, {"a"}
        async with fleet.lease("fake") as replica:
            before = {spec.name: id_ for spec, id_ in replica.adapters.ids()}
            with pytest.raises(InvalidRequest, match=r"a\.gguf cannot be used"):
                await replica.adapt(replica.adapters.specs)
            after = {spec.name: id_ for spec, id_ in replica.adapters.ids()}
        assert after["a"] == before["a"], "it works as it was"
        assert after["b"] not in before.values()
