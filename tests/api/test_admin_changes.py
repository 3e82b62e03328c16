"""The admin routes load, unload and read the manifest again, for whoever may; who may not changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llamahost.api.admin_types import ModelDetails, ReloadInfo
from llamahost.api.app import create_app
from llamahost.core.errors import ManifestError, Unavailable
from llamahost.fleet.settings.manifest import ServerSettings
from tests.api.fakes import app_of, client_of, run
from tests.api.sockets import Client, listening
from tests.api.two_models import host_of, told
from tests.on_loop import LIMIT_S

GIVEN = {"devices": ["CUDA1"], "n_ctx": 4096, "n_slots": 2, "n_gpu_layers": 12}


def test_a_model_is_loaded_as_it_was_asked_for_and_unloaded() -> None:
    async def law() -> None:
        host = host_of()
        async with client_of(app_of(host)) as client:
            answer = await client.post("/api/models/org/model/load", json=GIVEN)
            assert told(answer.content, ModelDetails).id == "org/model"
            assert (await client.post("/api/models/m/load")).status_code == 200
            assert (await client.post("/api/models/broken/load", json={"wait": False})).status_code == 202
            assert (await client.post("/api/models/m/load", json={"devices": "auto"})).status_code == 200
            assert (await client.post("/api/models/org/model/unload", json={})).status_code == 200
        assert host.changes == [
            ("load", "org/model", {**GIVEN, "devices": ("CUDA1",)}),
            ("load", "org/model", {}),
            ("load", "broken", {}),
            ("load", "org/model", {"devices": "auto"}),
            ("unload", "org/model", {}),
        ]

    run(law)


@pytest.mark.parametrize(
    ("name", "body", "status", "param"),
    [
        ("org/modle", {}, 404, "model"),
        ("m", {"n_ctx": 0}, 400, "n_ctx"),
        ("m", {"n_slots": "many"}, 400, "n_slots"),
        ("m", {"slots": 5}, 400, "slots"),
        ("m", {"devices": [3]}, 400, "devices[0]"),
        ("m", [], 400, None),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_its_field(name: str, body: Any, status: int, param: str | None) -> None:
    async def law() -> None:
        host = host_of()
        async with client_of(app_of(host)) as client:
            answer = await client.post(f"/api/models/{name}/load", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
        told = answer.json()["error"]["message"]
        assert param != "slots" or "which may have devices, n_ctx, n_slots, n_gpu_layers, wait" in told
        assert host.changes == []

    run(law)


@pytest.mark.parametrize("waits", [True, False])
def test_why_a_load_failed_is_told_to_whoever_asked(waits: bool) -> None:
    async def law() -> None:
        host = host_of()
        async with client_of(app_of(host)) as client:
            for error, status in ((Unavailable("it takes 9 of 4 GiB"), 503), (ManifestError("no", key="n_ctx"), 400)):
                host.change_script = [error]
                answer = await client.post("/api/models/m/load", json={"wait": waits})
                assert answer.status_code == status
                assert str(error) in answer.json()["error"]["message"]

    run(law)


def test_a_load_goes_on_when_its_client_leaves() -> None:
    async def law() -> None:
        host, release, is_done = host_of(), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            host.waiting.set()
            await release.wait()
            is_done.set()

        host.change_script = [work]
        app = app_of(host)
        async with listening(app) as port:
            client = await Client.open(port)
            client.post("/api/models/m/load", {})
            await host.waiting.wait()
            client.vanish()
            assert await app.gate.empty(LIMIT_S)
            assert not is_done.is_set()
            release.set()
            await is_done.wait()

    run(law)


def test_a_manifest_that_is_wrong_is_told_and_changes_nothing() -> None:
    async def law() -> None:
        troubles: list[Exception] = []

        async def again() -> tuple[str, ...]:
            if troubles:
                raise troubles[0]
            return ("port",)

        async with client_of(create_app(host_of(), reload=again)) as client:
            found = told((await client.post("/api/reload")).content, ReloadInfo)
            assert (len(found.models), found.waits_for_restart) == (2, ["port"])
            troubles.append(ManifestError("line 3: `n_ctx` must be a number", key="n_ctx"))
            refused = await client.post("/api/reload")
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n_ctx")
            assert "line 3" in refused.json()["error"]["message"]
        async with client_of(app_of(host_of())) as client:
            assert (await client.post("/api/reload")).status_code == 400

    run(law)


@pytest.mark.parametrize("path", ["models/m/load", "models/m/unload", "reload"])
def test_a_page_of_somebody_else_s_changes_nothing(path: str) -> None:
    async def law() -> None:
        host, n = host_of(), 0

        async def again() -> tuple[str, ...]:
            nonlocal n
            n += 1
            return ()

        settings = ServerSettings(cors_origins=("https://mine.org",))
        async with client_of(create_app(host, settings, reload=again)) as client:
            for origin, status in (
                ("https://evil.org", 403),
                ("null", 403),
                ("http://[", 403),
                ("http://test", 200),
                ("https://mine.org", 200),
            ):
                answer = await client.post(f"/api/{path}", headers={"origin": origin})
                assert answer.status_code == status, origin
        assert len(host.changes) + n == 2

    run(law)
