"""What every request meets: its id, one line in the log, the key, and the closed gate."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest

from llamahost.api.auth import Keys
from llamahost.api.feed import OTHER_KEYS
from llamahost.api.probes import NO_MODEL
from llamahost.core.errors import Unavailable
from llamahost.engine.engine import EngineStats
from llamahost.fleet.replica.adapters import AdapterStatus
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import ModelStatus
from llamahost.ops.tally import Tally
from llamahost.text.remembered import Heard
from tests.api.asking import ASK
from tests.api.fakes import CARD, READY, FakeHost, app_of, client_of, run, said
from tests.api.sockets import Client, listening
from tests.on_loop import LIMIT_S

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("given", ["abc-123", "trace/1:2=3", "x" * 128])
def test_a_plain_request_id_is_kept(given: str) -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            response = await client.get("/health", headers={"X-Request-Id": given})
            assert response.headers["x-request-id"] == given

    run(law)


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\tb", "é"])
def test_another_request_id_is_made(given: str | None) -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            headers = {} if given is None else {"X-Request-Id": given.encode()}
            response = await client.get("/nowhere", headers=headers)  # type: ignore[arg-type] # raw bytes are allowed
            assert re.fullmatch("req_[0-9a-f]{24}", response.headers["x-request-id"])

    run(law)


def test_one_line_a_request_tells_counts_and_no_content(caplog: pytest.LogCaptureFixture) -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            await client.post(CHAT, json=ASK, headers={"X-Request-Id": "r1"})
            await client.get("/health")

    with caplog.at_level(logging.INFO, "llamahost.access"):
        run(law)
    assert len(caplog.messages) == 1
    line = caplog.messages[0]
    assert line.startswith("POST /v1/chat/completions 200 model=tiny n_prompt=5 n_cached=2 n_generated=2 queue_ms=1.0 ")
    assert "ttft_ms=" in line
    assert "total_ms=" in line
    assert line.endswith("request_id=r1")
    assert "Hello" not in line
    assert "Hi" not in line


def test_a_request_that_ends_early_is_told_with_what_it_had(caplog: pytest.LogCaptureFixture) -> None:
    async def law() -> None:
        host = FakeHost([*said("a", "b")[:2], RuntimeError("a bug")])
        async with client_of(app_of(host)) as client:
            await client.post(CHAT, json={**ASK, "stream": True})

    with caplog.at_level(logging.INFO, "llamahost.access"):
        run(law)
    line = caplog.messages[-1]
    assert "n_prompt=5 n_cached=2 n_generated=1 " in line


def test_a_key_is_asked_for_everywhere_but_by_probes() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost(), api_key="sesame")) as client:
            for headers in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "sesame"}, {"x-api-key": "se"}):
                for path in ("/v1/models", "/metrics", "/nowhere"):
                    response = await client.get(path, headers=headers)
                    assert response.status_code == 401
                    assert response.json()["error"]["code"] == "invalid_api_key"
                    assert response.headers["www-authenticate"] == "Bearer"
            assert (await client.get("/v1/models", headers={"Authorization": "bearer sesame"})).status_code == 200
            assert (await client.get("/v1/models", headers={"x-api-key": "sesame"})).status_code == 200
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/ready")).status_code == 200

    run(law)


def test_a_key_that_is_taken_back_is_good_for_no_other_request_of_its_connection_and_what_runs_ends() -> None:
    async def law() -> None:
        host = FakeHost()
        release = asyncio.Event()
        host.script = [release.wait, *host.script]
        app = app_of(host, api_key="old")
        head = "GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n"
        async with listening(app) as port:
            inside, kept, listener = [await Client.open(port) for _ in range(3)]
            inside.post(CHAT, {**ASK, "stream": True}, headers="Authorization: Bearer old\r\n")

            async def models(client: Client, key: str) -> int:
                client.writer.write(head.format("/v1/models", key).encode())
                told = await client.until(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", told)
                assert length is not None
                await client.reader.readexactly(int(length.group(1)))
                return int(told.split()[1])

            assert await models(kept, "old") == 200
            listener.writer.write(head.format("/api/events", "old").encode())
            await listener.until(b"event: gpus")
            await host.waiting.wait()
            app.adopt(ServerSettings(), Keys(["new"]))
            assert OTHER_KEYS.encode() in await listener.until(b"0\r\n\r\n")
            for each in (kept, listener):
                assert [await models(each, key) for key in ("old", "new")] == [401, 200]
            release.set()
            assert b"[DONE]" in await inside.until(b"0\r\n\r\n")
            for each in (inside, kept, listener):
                each.vanish()

    run(law)


def test_keys_are_not_kept_as_they_are() -> None:
    keys = Keys(["sesame"])
    assert keys.fits(b"sesame")
    assert not keys.fits(b"sesamE")
    assert "sesame" not in repr(vars(keys))


def test_a_closed_gate_refuses_and_lets_finish_what_is_inside() -> None:
    async def law() -> None:
        release = asyncio.Event()
        host = FakeHost()
        host.script = [release.wait, *host.script]
        app = app_of(host)
        async with listening(app) as port:
            inside = await Client.open(port)
            inside.post(CHAT, ASK)
            await host.waiting.wait()
            app.gate.close()
            late = await Client.open(port)
            late.post(CHAT, ASK)
            refusal = await late.until(b"}}")
            assert refusal.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 5" in refusal
            assert b"connection: close" in refusal
            assert not await app.gate.empty(0)
            release.set()
            assert b'"Hello"' in await inside.until(b"predicted_per_second")
            assert await app.gate.empty(LIMIT_S)
            inside.vanish()
            late.vanish()

    run(law)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (FakeHost(statuses=()), NO_MODEL),
        (FakeHost(statuses=(ModelStatus(name="tiny", state="loading", progress=0.5),)), "tiny: loading, 50%"),
        (FakeHost(statuses=(ModelStatus(name="tiny", state="failed", reason="corrupt"),)), "tiny: corrupt"),
        (FakeHost(is_stalled=True), "a step of the decoder does not return"),
        (FakeHost(is_draining=True), "the server is shutting down"),
    ],
    ids=["none", "loading", "failed", "stalled", "draining"],
)
def test_probes_say_why_nothing_can_be_answered(host: FakeHost, reason: str) -> None:
    async def law() -> None:
        async with client_of(app_of(host)) as client:
            for path in ("/health", "/ready"):
                response = await client.get(path)
                assert response.status_code == 503
                assert response.json()["error"]["message"] == reason
                assert response.headers["retry-after"]

    run(law)


def test_probes_are_well_when_a_model_can_answer() -> None:
    async def law() -> None:
        broken = ModelStatus(name="other", state="failed", reason="corrupt")
        async with client_of(app_of(FakeHost(statuses=(READY, broken)))) as client:
            assert (await client.get("/health")).json() == {"status": "ok"}
            ready = (await client.get("/ready")).json()
            assert ready["models"] == {
                "tiny": {"state": "ready"},
                "other": {"state": "failed", "reason": "corrupt"},
            }

    run(law)


def test_a_route_is_ready_where_one_of_its_models_is() -> None:
    async def law() -> None:
        down, away = (ModelStatus(name=name, state="failed", reason="corrupt") for name in ("down", "away"))
        routes = (
            RouteSpec(name="chat", models=("down", "tiny"), aliases=("gpt-*",)),
            RouteSpec(name="none", models=("down", "away")),
        )
        host = FakeHost(statuses=(READY, down, away), known_routes=routes)
        async with client_of(app_of(host)) as client:
            for name, status in (("chat", 200), ("GPT-4o", 200), ("none", 503), ("down", 503), ("choose", 404)):
                answer = await client.get("/ready", params={"model": name})
                assert answer.status_code == status, (name, answer.text)
            told = (await client.get("/ready?model=none")).json()
            assert (list(told["models"]), told["error"]["message"]) == (
                ["down", "away"],
                "down: corrupt; away: corrupt",
            )

    run(law)


def test_models_are_listed_and_found_by_alias() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            listed = (await client.get("/models")).json()
            assert [model["id"] for model in listed["data"]] == ["tiny"]
            assert (await client.get("/v1/models/small")).json()["id"] == "tiny"
            missing = await client.get("/v1/models/org/tinny")
            assert missing.status_code == 404
            assert missing.json()["error"]["code"] == "model_not_found"

    run(law)


def test_a_model_that_is_not_loaded_says_what_loads_it_and_what_its_file_is_for() -> None:
    async def law() -> None:
        away = ModelStatus(name="away", state="unloaded", load="request", task="embedding")
        async with client_of(app_of(FakeHost(statuses=(away,)))) as client:
            model = (await client.get("/v1/models/away")).json()
        assert model["status"] == {"value": "unloaded", "progress": 0.0, "load": "request"}
        assert model["capabilities"] == ["embedding"]

    run(law)


def test_a_model_says_what_it_can_and_its_adapter_that_it_does_not_embed() -> None:
    async def law() -> None:
        card = replace(CARD, fills_in=True, pooling="last")
        poet = AdapterStatus(number=0, spec=AdapterSpec(name="poet", path=Path("poet.gguf")))
        host = FakeHost(statuses=(replace(READY, card=card, adapters=(poet,)),))
        async with client_of(app_of(host)) as client:
            model, adapter = (await client.get("/v1/models")).json()["data"]
        assert model["capabilities"] == ["completion", "chat", "infill", "embedding"]
        assert (adapter["id"], adapter["capabilities"]) == ("tiny:poet", ["completion", "chat", "infill"])

    run(law)


def test_metrics_show_models_as_they_are_at_the_scrape() -> None:
    async def law() -> None:
        stats = EngineStats(n_running=3, n_waiting=2, n_cells=100, n_cells_used=40, host_s=0.5, backend_s=1.5)
        status = replace(READY, stats=stats, heard=Heard(9, 4), thread_s=4.0)
        host = FakeHost([Unavailable("x")], statuses=(status,))
        async with client_of(app_of(host, Tally())) as client:
            await client.post(CHAT, json=ASK)
            text = (await client.get("/metrics")).text
            for line in (
                'llamahost_requests_running{model="tiny"} 3.0',
                'llamahost_requests_waiting{model="tiny"} 2.0',
                'llamahost_kv_cells_total{model="tiny"} 100.0',
                'llamahost_kv_cells_used{model="tiny"} 40.0',
                'llamahost_model_ready{model="tiny"} 1.0',
                'llamahost_prompt_memory_characters_total{model="tiny"} 9.0',
                'llamahost_prompt_memory_missed_characters_total{model="tiny"} 4.0',
                'llamahost_http_responses_total{status="503"} 1.0',
                'llamahost_step_seconds_total{model="tiny"} 4.0',
            ):
                assert line in text.splitlines()
            assert "process_resident_memory_bytes" in text
            host.statuses = ()
            assert 'llamahost_slots{model="tiny"}' not in (await client.get("/metrics")).text

    run(law)
