"""Pages of other origins: nothing without configuration, exactly what is configured with it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import httpx
import pytest

from llamahost.api.cors import refuse_strange_pages
from llamahost.api.problems import Forbidden
from llamahost.fleet.settings.manifest import ServerSettings
from tests.api.asking import ASK
from tests.api.fakes import FakeHost, app_of, client_of, run

CHAT = "/v1/chat/completions"
FRIEND = "https://chat.example.org"
STRANGER = "https://evil.example"


def preflight(origin: str) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }


def cors_of(response: httpx.Response) -> set[str]:
    return {name for name in response.headers if name.startswith("access-control-")}


def test_without_origins_nothing_is_said_of_any() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            response = await client.options(CHAT, headers=preflight(FRIEND))
            assert response.status_code == 405
            assert not cors_of(response)
            response = await client.get("/v1/models", headers={"Origin": FRIEND})
            assert response.status_code == 200
            assert not cors_of(response)
            assert "vary" not in response.headers

    run(law)


def test_a_named_origin_may_ask_also_with_a_key_and_a_stranger_may_not() -> None:
    async def law() -> None:
        app = app_of(FakeHost(), cors_origins=(FRIEND, "http://localhost:3000"), api_key="sesame")
        async with client_of(app) as client:
            response = await client.options(CHAT, headers=preflight(FRIEND))  # browsers send no key with it
            assert response.status_code == 204
            assert response.headers["access-control-allow-origin"] == FRIEND
            assert response.headers["access-control-allow-headers"] == "authorization,content-type"
            assert "POST" in response.headers["access-control-allow-methods"]
            assert "origin" in response.headers["vary"]
            refusal = await client.options(CHAT, headers=preflight(STRANGER))
            assert refusal.status_code == 403
            assert STRANGER in refusal.json()["error"]["message"]
            assert not cors_of(refusal)

    run(law)


def test_answers_errors_and_streams_can_be_read_by_a_named_origin_alone() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost(), cors_origins=(FRIEND,), api_key="sesame")) as client:
            key = {"Authorization": "Bearer sesame"}
            for response in (
                await client.post(CHAT, json=ASK, headers={"Origin": FRIEND, **key}),
                await client.post(CHAT, json={**ASK, "stream": True}, headers={"Origin": FRIEND, **key}),
                await client.post(CHAT, json={}, headers={"Origin": FRIEND, **key}),
                await client.post(CHAT, json=ASK, headers={"Origin": FRIEND}),
            ):
                assert response.headers["access-control-allow-origin"] == FRIEND
                assert "x-request-id" in response.headers["access-control-expose-headers"]
                assert "access-control-allow-credentials" not in response.headers
            response = await client.get("/v1/models", headers={"Origin": STRANGER, **key})
            assert not cors_of(response)
            # A cache that saw it without an origin must not give it to one.
            assert (await client.get("/v1/models", headers=key)).headers["vary"] == "origin"

    run(law)


def test_a_star_is_for_everybody() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost(), cors_origins=("*",))) as client:
            response = await client.options(CHAT, headers=preflight(STRANGER))
            assert (response.status_code, response.headers["access-control-allow-origin"]) == (204, "*")
            response = await client.get("/v1/models", headers={"Origin": "null"})
            assert response.headers["access-control-allow-origin"] == "*"
            assert not cors_of(await client.get("/v1/models"))

    run(law)


def test_options_that_are_no_preflight_are_answered_as_ever() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost(), cors_origins=("*",))) as client:
            assert (await client.options(CHAT)).status_code == 405

    run(law)


@pytest.mark.parametrize(
    ("origin", "host", "settings", "is_refused"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", {}, False),
        ("http://[::1]:8080", "[::1]:8080", {}, False),
        ("http://localhost:8080", "localhost:8080", {}, False),
        ("http://nas.local", "nas.local", {}, False),
        ("http://localhost:3000", "localhost:8080", {}, True),
        ("http://rebound.example", "rebound.example", {}, True),  # whoever owns the name may have it mean 127.0.0.1
        ("http://rebound.example", "rebound.example", {"api_key": "k"}, False),  # which that page does not know
        ("http://ui.example", "ui.example", {"cors_origins": ("http://ui.example",)}, False),
        ("http://[", "[", {}, True),
        ("null", "", {}, True),
        ("", "rebound.example", {}, False),  # no page's
    ],
)
def test_a_page_changes_the_server_only_where_it_is_the_server_s_own(
    origin: str, host: str, settings: dict[str, Any], is_refused: bool
) -> None:
    headers = [(b"origin", origin.encode()), (b"host", host.encode())]
    scope = {"type": "http", "headers": headers}
    with pytest.raises(Forbidden) if is_refused else nullcontext():
        refuse_strange_pages(scope, ServerSettings(**settings))
