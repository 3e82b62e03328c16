"""The admin routes tell models, rates, requests and GPUs as they are, to whoever has the key; events as they happen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from llamahost.api.admin import KINDS
from llamahost.api.admin_types import GpusInfo, ModelDetails, ModelsInfo, RequestsInfo, StatsInfo
from llamahost.api.app import App, create_app
from llamahost.api.feed import N_UNREAD, TOO_SLOW, Feed
from llamahost.core.observe import LoadProgress, ModelChanged, RequestRecord
from llamahost.engine.engine import EngineStats
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.ops.gpu import Fault, Gpu, Gpus
from llamahost.ops.gpu_monitor import GpuMonitor
from llamahost.ops.tally import Tally
from tests.api.fakes import app_of, client_of, run
from tests.api.sockets import Client, listening
from tests.api.two_models import COPY, FAILED, SLASHED, host_of, told
from tests.on_loop import LIMIT_S

GPU = Gpu(index=0, name="NVIDIA H100", uuid="GPU-0", pci_id="00000000:3b:00.0", total_bytes=80 * 2**30, throttled_by=())


@pytest.mark.parametrize("path", ["models", "models/org/model", "stats", "gpus", "requests", "events"])
def test_every_admin_route_asks_for_the_key_and_goes_when_the_gate_closes(path: str) -> None:
    async def law() -> None:
        app = app_of(host_of(), api_key="sesame")
        async with client_of(app) as client:
            refused = await client.get(f"/api/{path}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            app.gate.close()
            closed = await client.get(f"/api/{path}", headers={"x-api-key": "sesame"})
            assert closed.status_code == 503

    run(law)


def test_models_are_told_as_they_are_by_name_with_slashes_and_alias() -> None:
    async def law() -> None:
        async with client_of(app_of(host_of())) as client:
            whole: ModelsInfo = told((await client.get("/api/models")).content, ModelsInfo)
            for name in ("org/model", "m", "org%2Fmodel", "ORG/Model", "model.gguf", "gpt-5"):
                one: ModelDetails = told((await client.get(f"/api/models/{name}")).content, ModelDetails)
                assert (one.id, one.n_ctx, one.architecture) == ("org/model", 64, "llama")
            missing = await client.get("/api/models/org/modle")
            routes = [await client.get(f"/api/models/{name}") for name in ("best", "BEST", "claude-5")]
        well, failed = whole.models
        assert (well.id, well.state, well.n_running, well.n_waiting, well.n_cells) == ("org/model", "ready", 4, 6, 512)
        assert (well.devices, well.memory_bytes) == (["CUDA0"], 200)
        replica = well.replicas[1]
        assert (replica.id, replica.estimated.total_bytes, replica.measured) == ("org/model#1", 100, None)
        assert (failed.id, failed.state, failed.reason, failed.last_used) == ("broken", "failed", "corrupt", None)
        assert [answer.status_code for answer in (missing, *routes)] == [404] * 4
        assert all(
            "a route; its models are `org/model`, `broken`" in route.json()["error"]["message"] for route in routes
        )
        assert "`org/model`" in missing.json()["error"]["message"]

    run(law)


def test_stats_are_what_was_counted() -> None:
    async def law() -> None:
        now = [100.0]
        tally = Tally(clock=lambda: now[0], wall=lambda: 5.0)
        host = host_of()
        async with client_of(create_app(host, tally=tally)) as client:
            nothing = (await client.get("/api/stats")).json()
            now[0] += 4.0
            worked = replace(COPY, stats=EngineStats(n_tokens_in=80, n_tokens_out=40))
            host.statuses = (replace(SLASHED, replicas=(worked,)), FAILED)
            tally.finished(RequestRecord(model="org/model", kind="chat"))
            stats: StatsInfo = told((await client.get("/api/stats")).content, StatsInfo)
            model: ModelDetails = told((await client.get("/api/models/m")).content, ModelDetails)
        assert nothing == {"tokensPerSecond": 0.0, "requestsPerMinute": 0, "activeConnections": 0, "modelsLoaded": 1}
        assert (stats.tokens_per_second, stats.requests_per_minute) == (10.0, 1)
        assert (model.rates.tokens_per_s, model.rates.prompt_tokens_per_s, model.last_used) == (10.0, 20.0, 5.0)

    run(law)


def test_the_last_requests_are_told_by_their_id_and_without_their_words() -> None:
    async def law() -> None:
        tally = Tally()
        tally.finished(RequestRecord(model="a", kind="chat", id="req_1", n_prompt=5, n_generated=7, total_s=0.5))
        second = RequestRecord(
            model="b", route="best", kind="rerank", id="req_2", outcome="rejected", error="Overloaded"
        )
        tally.finished(second)
        async with client_of(create_app(host_of(), tally=tally)) as client:
            both: RequestsInfo = told((await client.get("/api/requests")).content, RequestsInfo)
            assert [(each.id, each.route, each.status, each.error) for each in both.requests] == [
                ("req_2", "best", "rejected", "Overloaded"),
                ("req_1", "", "stop", ""),
            ]
            for of, id_ in (("limit=1&model=a", "req_1"), ("model=BEST", "req_2"), ("model=gone", None)):
                one = (await client.get(f"/api/requests?{of}")).json()["requests"]
                assert [each["id"] for each in one] == [id_] * (id_ is not None), of
            for limit in ("0", "-1", "x", "", "1e3", "²", "1001", "9" * 5000, "000000001" + "0" * 5000):
                refused = await client.get("/api/requests", params={"limit": limit})
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, "limit"), limit

    run(law)


def test_gpus_are_told_and_none_is_a_reason() -> None:
    async def law() -> None:
        gpus = GpuMonitor(0)
        async with client_of(create_app(host_of(), gpus=gpus)) as client:
            assert told((await client.get("/api/gpus")).content, GpusInfo).trouble
            gpus.latest = Gpus(gpus=(GPU,), driver="570")
            shown: GpusInfo = told((await client.get("/api/gpus")).content, GpusInfo)
            assert (shown.driver, shown.gpus[0].uuid, shown.gpus[0].throttled_by) == ("570", "GPU-0", [])
            assert 'llamahost_gpu_memory_total_bytes{gpu="0"' in (await client.get("/metrics")).text

    run(law)


async def events_of(client: Client) -> AsyncIterator[tuple[str, Any]]:
    while True:
        lines = (await client.until(b"\n\n")).decode().splitlines()
        event = {name: value for name, _, value in (line.partition(": ") for line in lines)}
        if "event" in event:
            yield event["event"], json.loads(event["data"])


def listen(client: Client, query: str = "") -> AsyncIterator[tuple[str, Any]]:
    client.writer.write(f"GET /api/events{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return events_of(client)


def test_events_tell_everything_once_and_then_what_changes() -> None:
    async def law() -> None:
        host, tally, gpus = host_of(), Tally(), GpuMonitor(0)
        app = create_app(host, ServerSettings(), tally=tally, gpus=gpus)
        async with listening(app) as port:
            client = await Client.open(port)
            events = listen(client)
            kind, whole = await anext(events)
            assert (kind, [model["id"] for model in whole["models"]]) == ("models", ["org/model", "broken"])
            assert (await anext(events))[0] == "gpus"
            host.statuses = (SLASHED, replace(FAILED, state="loading", reason="", progress=0.5))
            host.listeners[0](ModelChanged("broken", "", "loading"))
            kind, model = await anext(events)
            assert (kind, model["id"], model["state"], model["progress"]) == ("model", "broken", "loading", 0.5)
            host.listeners[0](LoadProgress("broken", "broken#0", 0.25))
            assert await anext(events) == ("load", {"model": "broken", "replica": "broken#0", "fraction": 0.25})
            tally.finished(RequestRecord(model="org/model", kind="chat", id="req_1"))
            kind, request = await anext(events)
            assert (kind, request["id"]) == ("request", "req_1")
            fault = Fault(index=0, uuid="GPU-0", pci_id="00000000:3b:00.0", xid=79, told="Xid 79", is_fatal=True)
            gpus._tell(replace(fault, xid=31, is_fatal=False))
            gpus._tell(fault)
            kind, first = await anext(events)
            assert (kind, first["xid"], first["is_fatal"]) == ("fault", 31, False)
            kind, second = await anext(events)
            assert (kind, second["xid"], second["uuid"]) == ("fault", 79, "GPU-0")
            assert host.quarantined == [("00000000:3b:00.0", "Xid 79")]  # of a program's own fault, nothing
            gpus._tell(Gpus(gpus=(GPU,)))
            kind, sample = await anext(events)
            assert (kind, sample["gpus"][0]["uuid"]) == ("gpus", "GPU-0")
            app.gate.close()
            assert await anext(events) == ("end", {"reason": "the server is shutting down"})
            assert await app.gate.empty(LIMIT_S)
            client.vanish()

    run(law)


def test_listeners_hear_of_other_models_when_the_manifest_is_read_again() -> None:
    async def law() -> None:
        host = host_of()

        async def again() -> tuple[str, ...]:
            host.statuses = host.statuses[:1]
            return ()

        app = create_app(host, reload=again)
        n_models = []
        async with (
            listening(app) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as client,
            client.stream("GET", "/api/events?kinds=models") as answer,
        ):
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    n_models.append(len(json.loads(line[6:])["models"]))
                    if len(n_models) == 2:
                        break
                    assert (await client.post("/api/reload")).status_code == 200
        assert n_models == [2, 1]

    run(law)


def test_only_the_kinds_that_are_named_are_told_and_a_client_that_leaves_is_forgotten() -> None:
    async def law() -> None:
        tally = Tally()
        app = create_app(host_of(), ServerSettings(ping_s=60.0), tally=tally, gpus=GpuMonitor(0))
        async with listening(app) as port:
            client = await Client.open(port)
            events = listen(client, "?kinds=request")
            assert b": ping" in await client.until(b": ping\n\n"), "he is heard at once, with nothing to tell him"
            tally.finished(RequestRecord(model="org/model", kind="chat", id="req_1"))
            assert (await anext(events))[0] == "request"
            client.vanish()
            assert await app.gate.empty(LIMIT_S)
            assert app._watch.feed.n_listeners == 0
        async with client_of(app_of(host_of())) as asking:
            refused = await asking.get("/api/events?kinds=request,modles")
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "kinds")
            assert (await asking.head("/api/events")).status_code == 200

    run(law)


def test_a_listener_that_does_not_read_is_ended_and_costs_the_others_nothing() -> None:
    async def law() -> None:
        feed = Feed()
        slow, quick = (feed.listen(KINDS, lambda: [b"first"]) for _ in range(2))
        assert await anext(slow) == await anext(quick) == b"first"
        for k in range(N_UNREAD + 10):
            feed.tell("request", lambda k=k: k)  # type: ignore[misc]  # a default binds k
            assert str(k).encode() in await anext(quick)
        got = [event async for event in slow]
        assert len(got) == N_UNREAD + 1
        assert TOO_SLOW.encode() in got[-1]
        assert feed.n_listeners == 1
        feed.close()
        assert b"shutting down" in await anext(quick)
        assert [event async for event in feed.listen(KINDS, list)] != []
        await asyncio.sleep(0)

    run(law)


def test_what_looks_at_the_models_ends_with_the_app() -> None:
    async def law() -> None:
        app: App = create_app(host_of(), gpus=GpuMonitor(0))
        async with listening(app):
            assert app._watch._counting is not None
        assert app._watch._counting.cancelled()

    run(law)
