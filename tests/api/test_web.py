"""The page at / : what it is sent with, and that it asks nobody but this server."""

from __future__ import annotations

import base64
import re
from hashlib import sha256

import pytest

from llamahost.api.web import FOLDER, Page, policy_of
from tests.api.fakes import FakeHost, app_of, client_of, run

HTML = (FOLDER / "chat.html").read_bytes()


def test_the_page_is_sent_whole_under_a_policy_that_allows_its_own_script_and_style_alone() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            response = await client.get("/")
            assert (response.status_code, response.content) == (200, HTML)
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"
            policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'"
            assert policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == "'none'"
            assert "unsafe" not in response.headers["content-security-policy"]
            for kind in ("script", "style"):
                (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", HTML.decode(), re.DOTALL)
                digest = base64.b64encode(sha256(text.encode()).digest()).decode()
                assert policy[f"{kind}-src"] == f"'sha256-{digest}'"

    run(law)


def test_a_page_that_is_known_is_not_sent_again() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            tag = (await client.get("/")).headers["etag"]
            for held in (tag, f'W/{tag}, "other"', "*"):
                again = await client.get("/", headers={"If-None-Match": held})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == tag
                assert again.headers["content-security-policy"]
            assert (await client.get("/", headers={"If-None-Match": '"old"'})).status_code == 200

    run(law)


def test_head_tells_the_length_and_sends_nothing() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            response = await client.head("/")
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["content-length"] == str(len(HTML))
            assert (await client.post("/")).status_code == 405

    run(law)


def test_the_page_needs_no_key_but_what_it_asks_for_does() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost(), api_key="sesame")) as client:
            assert (await client.get("/")).status_code == 200
            assert (await client.get("/v1/models")).status_code == 401

    run(law)


def test_the_page_names_no_other_server_and_makes_no_html_of_text() -> None:
    text = HTML.decode()
    assert set(re.findall(r"https?://[^\s'\"]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick="):
        assert word not in text


def test_every_field_of_the_page_has_a_label() -> None:
    text = HTML.decode()
    for field in re.findall(r"<(?:input|select|textarea) id=\"([a-z]+)\"", text):
        assert f'<label for="{field}"' in text


@pytest.mark.parametrize("body", [b"", b"<p>plain</p>"])
def test_a_page_without_script_may_run_none(body: bytes) -> None:
    assert b"script-src 'none'" in policy_of(body)
    assert Page.of(body).etag != Page.of(body + b" ").etag
