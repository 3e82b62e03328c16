"""Laws of loading by hand: other settings hold until others are given, and the manifest's are never lost."""

from __future__ import annotations

import asyncio
import math
import threading
from dataclasses import replace

import pytest
import uvloop

from llamahost.core.errors import LoadFailed, ManifestError, ModelNotFound, Unavailable
from llamahost.fleet.fleet import Fleet
from llamahost.fleet.machine.footprint import FileFacts
from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import AsyncHost
from tests.fleet.fakes import FakeLoader, spec_of
from tests.fleet.fleets import fleet_of, generate
from tests.on_loop import LIMIT_S, on_loop, turns


def n_ctx(fleet: Fleet) -> int | None:
    return next(iter(fleet._crew.places.values())).spec.n_ctx


@on_loop
async def test_what_is_not_given_is_the_manifest_s_whatever_was_given_before() -> None:
    loader = FakeLoader()
    spec = spec_of("m", n_ctx=64, load="hand")
    async with fleet_of(spec, loader=loader) as fleet:
        await fleet.load("m", {"n_ctx": 32, "n_slots": 2})
        assert [each.spec.n_ctx for each in loader.opened] == [32]
        await fleet.load("m")  # it is there
        assert [each.spec.n_ctx for each in loader.opened] == [32]
        await fleet.load("m", {"n_slots": 3})
        assert [(each.spec.n_ctx, each.spec.n_slots) for each in loader.opened][1:] == [(64, 3)]
        await fleet.unload("m")
        await fleet.load("m")
        assert (loader.opened[-1].spec.n_ctx, loader.opened[-1].spec.n_slots) == (64, spec.n_slots)


@on_loop
async def test_a_bad_setting_is_refused_and_one_that_cannot_be_had_is_forgotten() -> None:
    async with fleet_of(spec_of("m", n_ctx=64)) as fleet:
        await fleet.wait_ready()
        with pytest.raises(ManifestError):
            await fleet.load("m", {"n_ctx": -1})
        assert fleet.statuses()[0].state == "ready"
        async with fleet.lease("m"):
            with pytest.raises(Unavailable, match="it may go on CUDA7, there are cpu"):
                await fleet.load("m", {"devices": ("CUDA7",)})
            assert [(each.id, each.state) for each in fleet.statuses()[0].replicas] == [("m#0", "ready")]
        assert next(iter(fleet._crew.places.values())).spec.devices == "auto"


@on_loop
async def test_what_cannot_be_loaded_otherwise_is_as_it_was() -> None:
    loader = FakeLoader(failures=[None, LoadFailed("no such context")])
    async with fleet_of(spec_of("m", n_ctx=64), loader=loader) as fleet:
        await fleet.wait_ready()
        with pytest.raises(Unavailable, match="no such context"):
            await fleet.load("m", {"n_ctx": 32})
        assert (n_ctx(fleet), fleet.statuses()[0].state, loader.n_loads) == (64, "ready", 2)
        await fleet.load("m", {"n_ctx": 32})
        assert (n_ctx(fleet), fleet.statuses()[0].state) == (32, "ready")


@on_loop
async def test_a_manifest_that_is_read_again_undoes_what_was_given_by_hand() -> None:
    spec = spec_of("m", n_ctx=64)
    async with fleet_of(spec) as fleet:
        await fleet.load("m", {"n_ctx": 32})
        await fleet.adopt(Manifest(models=(spec,)))
        assert n_ctx(fleet) == 64
        await fleet.load("m", {"n_slots": 2})
        assert n_ctx(fleet) == 64


@on_loop
async def test_models_and_routes_of_a_manifest_that_is_read_again_are_asked_for_by_their_names() -> None:
    one, two = spec_of("one"), spec_of("two", aliases=("second",))
    async with AsyncHost(Manifest(models=(one,)), load=FakeLoader(), is_strict=True) as host:
        await host.adopt(Manifest(models=(two,), routes=(RouteSpec(name="any", models=("two",)),)))
        await host.load("two")
        for name in ("two", "second", "any"):
            assert await host.tokenize("a", model=name)
        with pytest.raises(ModelNotFound):
            await host.tokenize("a", model="one")


@on_loop
async def test_a_model_idles_from_its_last_lease_on_whatever_else_is_due_later() -> None:
    """Other news meanwhile finds nothing of it to wait for."""
    async with fleet_of(spec_of("a", load="start", idle_s=100.0), spec_of("b", load="start", idle_s=9e6)) as fleet:
        await fleet.wait_ready()
        crew = fleet._crew
        async with fleet.lease("a"):
            crew.do(())
            assert crew.timer is not None
            assert crew.timer.when() - crew.now() > 8e6
        assert crew.timer is not None
        assert 0 < crew.timer.when() - crew.now() <= 100


def test_a_lease_ends_well_in_the_turn_in_which_another_model_has_idled_long_enough() -> None:
    """uvloop's handle of what is due at once is none of a timer, and says not when."""

    async def law() -> None:
        async with fleet_of(*(spec_of(name, load="start", idle_s=100.0) for name in "ab")) as fleet:
            await fleet.wait_ready()
            crew = fleet._crew
            async with fleet.lease("a"):
                (other,) = crew.residency.models["b"].replicas
                other.last_used = -math.inf
                crew.do(())
            while len([status for status in fleet.statuses() if status.state == "ready"]) > 1:
                await turns()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(law(), LIMIT_S))


@on_loop
async def test_what_is_loaded_while_another_manifest_is_read_leaves_nothing_of_the_old_one() -> None:
    block, entered, gate = threading.Event(), threading.Event(), threading.Event()

    def facts(spec: ModelSpec) -> FileFacts:
        if block.is_set():
            block.clear()
            entered.set()
            assert gate.wait(LIMIT_S)
        return FileFacts(layers=(2**20,), n_ctx_train=64, stamp=1)

    async with fleet_of(spec_of("m", n_ctx=64), facts=facts) as fleet:
        await fleet.wait_ready()
        block.set()
        adopting = asyncio.ensure_future(fleet.adopt(Manifest(models=(spec_of("m", n_ctx=48),))))
        await asyncio.to_thread(entered.wait, LIMIT_S)
        await fleet.load("m", {"n_slots": 2})
        gate.set()
        await adopting
        await fleet.load("m", {"n_slots": 3})
        assert n_ctx(fleet) == 48


@on_loop
async def test_what_was_counted_of_a_model_is_told_when_it_left_and_never_falls() -> None:
    async with fleet_of(spec_of("m")) as fleet:
        await fleet.wait_ready()
        told = []
        for k in range(2):
            await generate(fleet, k + 1)
            told.append(fleet.statuses()[0].thread_s)
            await fleet.unload("m")
            told.append(fleet.statuses()[0].thread_s)
            await fleet.load("m")
        assert 0.0 < told[0] <= told[1] < told[2] <= told[3]


@on_loop
async def test_a_model_at_rest_is_told_once_and_anew_when_anything_of_it_is_other() -> None:
    spec = spec_of("m", n_ctx=64, load="hand")
    async with fleet_of(spec) as fleet:
        (told,) = fleet.statuses()
        assert (told.state, told.spec, told.thread_s) == ("unloaded", spec, 0.0)
        assert fleet.statuses()[0] is told
        await fleet.load("m")
        assert fleet.statuses()[0].state == "ready"
        await generate(fleet, 1)
        await fleet.unload("m")
        (left,) = fleet.statuses()
        assert (left.state, left.n_in_flight) == ("unloaded", 0)
        assert left.thread_s > 0  # what it had is counted on
        aliased = replace(spec, aliases=("other",))
        await fleet.adopt(Manifest(models=(aliased,)))
        assert fleet.statuses()[0].aliases == ("other",)
