"""A server on its user's own machine that asks for no key answers no web page that comes by a name or blindly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamahost.api.app import create_app
from llamahost.core.errors import ManifestError
from llamahost.fleet.settings.manifest import ServerSettings
from tests.api.fakes import FakeHost

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}
EVIL = "https://evil.example"


def status_of(
    headers: dict[str, str], settings: dict[str, Any], *, path: str = CHAT, over: str = "127.0.0.1"
) -> tuple[int, str]:
    """Of a chat, or of a GET elsewhere; and what is told, where it is refused."""

    async def law() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(FakeHost(), ServerSettings(**settings)))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{over}:8080") as client:
            if path == CHAT:
                return await client.post(path, json=BODY, headers=headers)
            return await client.get(path, headers=headers)

    answer = asyncio.run(law())
    return answer.status_code, answer.text


@pytest.mark.parametrize(
    ("host", "settings", "status"),
    [
        ("127.0.0.1:8080", {}, 200),
        ("[::1]:8080", {}, 200),
        ("192.168.1.7", {}, 200),
        ("LOCALHOST:8080", {}, 200),
        ("localhost.", {}, 200),
        ("app.localhost", {}, 200),
        ("nas.local", {}, 200),
        ("mybox", {}, 200),
        ("evil.example", {}, 403),
        ("evil.example:8080", {}, 403),
        ("127.0.0.1.evil.example", {}, 403),
        ("localhost.evil.example", {}, 403),
        ("[", {}, 403),
        ("evil.example", {"api_key": "sesame"}, 401),
        ("evil.example", {"host": "0.0.0.0"}, 200),
        ("evil.example", {"cors_origins": ("*",)}, 200),
        ("evil.example", {"unix_socket": Path("socket")}, 200),
        ("llm.example.org", {"allowed_hosts": ("llm.example.org",)}, 200),
        ("LLM.example.org:443", {"allowed_hosts": ("llm.Example.org",)}, 200),
        ("a.b.example.org", {"allowed_hosts": ("*.example.org",)}, 200),
        ("example.org", {"allowed_hosts": ("*.example.org",)}, 403),
        ("badexample.org", {"allowed_hosts": ("*.example.org",)}, 403),
        ("evil.example", {"allowed_hosts": ("*",)}, 200),
    ],
)
def test_a_public_name_is_answered_only_where_it_is_known_as_the_server_s_own(
    host: str, settings: dict[str, Any], status: int
) -> None:
    found, told = status_of({"host": host}, settings)
    assert found == status
    assert "--allowed-host" in told or status != 403


@pytest.mark.parametrize(
    ("headers", "settings", "status"),
    [
        ({"origin": EVIL, "sec-fetch-site": "cross-site"}, {}, 403),
        ({"origin": "null", "sec-fetch-site": "cross-site"}, {}, 403),
        ({"origin": EVIL}, {}, 403),  # an older browser
        ({"origin": EVIL, "sec-fetch-site": "cross-site"}, {"cors_origins": (EVIL,)}, 200),
        ({"origin": EVIL, "sec-fetch-site": "cross-site"}, {"cors_origins": ("*",)}, 200),
        ({"origin": EVIL, "sec-fetch-site": "cross-site"}, {"host": "0.0.0.0"}, 200),
        ({"origin": "https://llm.example.org", "sec-fetch-site": "same-origin"}, {}, 200),  # a proxy's page
        ({"origin": "http://llm.example.org"}, {"allowed_hosts": ("llm.example.org",)}, 200),
        ({"origin": "http://localhost:3000", "sec-fetch-site": "same-site"}, {}, 200),
        ({"origin": "chrome-extension://abcdef", "sec-fetch-site": "cross-site"}, {}, 200),
        ({}, {}, 200),
    ],
)
def test_a_post_that_a_page_sends_blindly_is_refused(
    headers: dict[str, str], settings: dict[str, Any], status: int
) -> None:
    found, told = status_of(headers, settings)
    assert found == status
    assert "--cors-origin" in told or status != 403


def test_probes_and_connections_from_elsewhere_are_not_asked_for_a_name() -> None:
    strange = {"host": "evil.example"}
    assert status_of(strange, {}, path="/health")[0] == 200
    assert status_of(strange, {}, path="/v1/models")[0] == 403
    assert status_of(strange, {}, path="/")[0] == 403
    assert status_of(strange, {}, over="192.168.1.7")[0] == 200


@pytest.mark.parametrize("name", ["", "a b", "https://a.example", "a.example:80", "*.*", "a..b", 3])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ManifestError, match="allowed_hosts must be names"):
        ServerSettings(allowed_hosts=(name,))
