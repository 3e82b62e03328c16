"""Pages of other origins: nothing without configuration, exactly what is configured with it."""

from __future__ import annotations

import httpx

from tests.api.fakes import FakeHost, app_of, client_of, run
from tests.api.test_chat import ASK

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
