"""Laws of models that the manifest takes from the hub: fetched when they are loaded, while all others go on."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llamahost.core.errors import Unavailable
from llamahost.core.observe import FleetEvent, LoadProgress, ModelChanged
from llamahost.files.download import Puller
from llamahost.files.hub import Hub
from llamahost.files.local import Places
from llamahost.fleet.fleet import Fleet
from llamahost.fleet.machine.bring import brought
from llamahost.fleet.machine.footprint import FileFacts
from llamahost.fleet.memory.residency import BACKOFF_S
from llamahost.fleet.routing.policy import Wants
from llamahost.fleet.settings.manifest import BUILTIN_PATH, Manifest, ModelSpec
from tests.fleet.fakes import spec_of
from tests.fleet.fleets import fleet_of
from tests.loopback_hub import LoopbackHub, loopback_hub
from tests.on_loop import LIMIT_S, turns

NAME = "Maker/Tiny-GGUF"


def from_hub(**options: Any) -> ModelSpec:
    return ModelSpec(name="m", repo=NAME, **{"load": "request", **options})


@pytest.fixture(scope="module")
def the_hub(tiny_llama: Path) -> Iterator[LoopbackHub]:
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def hub(the_hub: LoopbackHub, tiny_llama: Path) -> Iterator[LoopbackHub]:
    the_hub.reset()
    the_hub.add(NAME, {"tiny-Q8_0.gguf": tiny_llama.read_bytes()})
    yield the_hub
    if the_hub.gate is not None:
        the_hub.gate.set()


def facts(spec: ModelSpec) -> FileFacts:
    assert spec.path.is_file() or not spec.repo, "it is looked at when it is here"
    return FileFacts(layers=(1000,), n_ctx_train=64, path=spec.path)


@asynccontextmanager
async def fetching(
    hub: LoopbackHub, folder: Path, *specs: ModelSpec, is_offline: bool = False, n_free: int = 10**12
) -> AsyncIterator[Fleet]:
    places = Places.of({"HOME": str(folder), "OLLAMA_MODELS": str(folder / "ollama")})
    asked = Hub(hub.endpoint, token="none", is_offline=is_offline)
    puller = Puller(hub=asked, places=places, backoff_s=0.0, free_bytes=lambda _: n_free)
    async with fleet_of(*specs, facts=facts, fetch=partial(brought, puller=puller), is_strict=True) as fleet:
        yield fleet


def run(law: Coroutine[Any, Any, None]) -> None:
    """On a loop of its own; the hub's threads, which wait for more to be asked, may outlive it."""
    asyncio.run(asyncio.wait_for(law, LIMIT_S))


async def asked(fleet: Fleet, name: str, **wants: Any) -> Path:
    async with fleet.lease(name, wants=Wants(**wants)) as replica:
        return replica.spec.path


async def _fetched_on_request(hub: LoopbackHub, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.gate = threading.Event()
    async with fetching(hub, folder, from_hub(), spec_of("other")) as fleet:
        events: list[FleetEvent] = []
        is_here = asyncio.Event()

        def hear(event: FleetEvent) -> None:
            events.append(event)
            if isinstance(event, LoadProgress) and event.model == "m" and event.fraction > 0:
                is_here.set()

        fleet.listen(hear)
        waiting = asyncio.ensure_future(asked(fleet, "m"))
        await is_here.wait()
        status = fleet.statuses()[0]
        assert (status.state, status.n_pending) == ("pulling", 1)
        assert 0 < status.progress < 1
        assert status.reason.startswith("fetching tiny-Q8_0.gguf: ")
        await fleet.load("other")
        assert await asked(fleet, "other"), "others go on"
        with pytest.raises(Unavailable, match="`m` is not on this machine yet: fetching") as refused:
            await asked(fleet, "m", waits=False)
        assert 2 <= refused.value.retry_after_s <= 60
        with pytest.raises(Unavailable, match="beyond this request's time"):
            await asked(fleet, "m", deadline=asyncio.get_running_loop().time())
        hub.gate.set()
        assert (await waiting).name == "tiny-Q8_0.gguf"
        assert fleet.statuses()[0].state == "ready"
        changes = [event for event in events if isinstance(event, ModelChanged)]
        told = [event.state for event in changes if (event.model, event.replica) == ("m", "")]
        assert told == ["loading", "pulling", "loading", "ready"]
        await fleet.unload("m")
        n_asked = len(hub.asked)
        assert await asked(fleet, "m")
        assert len(hub.asked) == n_asked, "what is here is not asked for"
    assert "m: fetching tiny-Q8_0.gguf" in caplog.text


def test_it_is_fetched_when_it_is_asked_for_and_all_others_go_on(
    hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "llamahost"):
        run(_fetched_on_request(hub, tmp_path, caplog))


def test_without_the_hub_what_is_here_serves_and_the_rest_says_what_to_do(hub: LoopbackHub, tmp_path: Path) -> None:
    async def law() -> None:
        async with fetching(hub, tmp_path, from_hub(load="start"), spec_of("other"), is_offline=True) as fleet:
            await fleet.load("other")
            with pytest.raises(Unavailable, match="not on this machine, and HF_HUB_OFFLINE is set") as refused:
                await asked(fleet, "m")
            assert "`llamahost pull m` fetches it where the hub answers" in str(refused.value)
            assert [each.state for each in fleet.statuses()] == ["failed", "ready"]
        async with fetching(hub, tmp_path, from_hub()) as fleet:
            await asked(fleet, "m")
        async with fetching(hub, tmp_path, from_hub(load="start"), is_offline=True) as fleet:
            await fleet.wait_ready()

    run(law())


def test_what_cannot_be_fetched_hurts_no_other_and_is_tried_again(hub: LoopbackHub, tmp_path: Path) -> None:
    async def law() -> None:
        async with fetching(hub, tmp_path, from_hub(), spec_of("other"), n_free=5) as fleet:
            with pytest.raises(Unavailable, match=r"needs .* more .*, and 5 B are free") as refused:
                await asked(fleet, "m")
            assert refused.value.retry_after_s == pytest.approx(BACKOFF_S, abs=1.0)
            assert await asked(fleet, "other", waits=True)
        hub.repos[NAME].files["tiny-Q8_0.gguf"] = b"<html>no model</html>"
        async with fetching(hub, tmp_path, from_hub(), spec_of("other")) as fleet:
            with pytest.raises(Unavailable, match="is no GGUF file"):
                await asked(fleet, "m")
            assert (fleet.statuses()[0].state, await asked(fleet, "other", waits=True) is None) == ("failed", False)
            hub.repos[NAME].files["tiny-Q8_0.gguf"] = BUILTIN_PATH.read_bytes()
            await fleet.load("m")

    run(law())


@pytest.mark.parametrize("ending", ["unload", "reload", "close"])
def test_what_is_not_wanted_any_more_is_not_fetched_to_its_end(hub: LoopbackHub, tmp_path: Path, ending: str) -> None:
    async def law() -> None:
        gate = hub.gate = threading.Event()
        async with fetching(hub, tmp_path, from_hub(), spec_of("other")) as fleet:
            waiting = asyncio.ensure_future(asked(fleet, "m"))
            while not hub.waiting.is_set() or fleet.statuses()[0].state != "pulling":
                await turns()
            if ending == "close":
                await asyncio.wait_for(fleet.close(), LIMIT_S / 2)  # while the hub says nothing, for LIMIT_S
            elif ending == "unload":
                await fleet.unload("m")
            else:
                await fleet.adopt(Manifest(models=(spec_of("other"),)))
            with pytest.raises(Unavailable):
                await waiting
            gate.set()
            assert all(each.state != "pulling" for each in fleet.statuses())

    run(law())
    assert not list(tmp_path.rglob("snapshots/*/*"))
