"""Behind a proxy that shows the server under a path of its own."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.api.asking import ASK
from tests.api.fakes import FakeHost, app_of, client_of, run


@pytest.mark.parametrize("base", ["/llm", "/llm/", "/a/b.c"])
def test_the_proxy_may_take_the_path_away_or_leave_it(base: str) -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost(), base_path=base, api_key="sesame")) as client:
            key = {"Authorization": "Bearer sesame"}
            for prefix in ("", base.rstrip("/")):
                assert (await client.get(f"{prefix}/health")).status_code == 200  # a probe: without a key here too
                assert (await client.get(f"{prefix}/")).headers["content-type"].startswith("text/html")
                assert (await client.get(f"{prefix}/v1/models")).status_code == 401
                assert (await client.get(f"{prefix}/v1/models/tiny", headers=key)).json()["id"] == "tiny"
                assert (await client.post(f"{prefix}/chat/completions", json=ASK, headers=key)).status_code == 200
            assert (await client.get(base.rstrip("/"))).status_code == 200
            assert (await client.get(base.rstrip("/") + "x/health", headers=key)).status_code == 404
            assert (await client.get(base.rstrip("/") * 2 + "/health", headers=key)).status_code == 404

    run(law)


@pytest.mark.parametrize(
    ("base", "root", "at", "url"),
    [
        ("", "", "", "/"),
        ("/llm", "", "", "/llm"),
        ("", "", "/llm", "/llm"),
        ("", "/out", "/llm", "/out/llm"),
        ("/shown", "/out", "/llm", "/shown"),
        ("", "/out", "", "/out"),
        ("", "", "/an odd%", "/an%20odd%25"),
    ],
)
@pytest.mark.parametrize("is_taken", [True, False], ids=["taken off by the proxy", "left on"])
def test_the_document_tells_where_the_server_is_shown(base: str, root: str, at: str, url: str, is_taken: bool) -> None:
    """`root` is what servers of ASGI call root_path: what a proxy shows all of the application under."""

    async def law() -> None:
        ours = app_of(FakeHost(), base_path=base)
        app = Starlette(routes=[Mount(at, app=ours)]) if at else ours
        transport = httpx.ASGITransport(app, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            prefix = ("" if is_taken else root) + at.replace("%", "%25")
            told = await client.get(f"{prefix}/openapi.json")
            assert told.json()["servers"] == [{"url": url}]
            page = await client.get(f"{prefix}/docs")
            assert (page.status_code, 'href="openapi.json"' in page.text) == (200, True)

    run(law)


@pytest.mark.parametrize(("base", "at"), [("", "/llm"), ("/llm", "/llm"), ("", "/{name}")])
def test_another_application_may_have_it_mounted(base: str, at: str) -> None:
    async def law() -> None:
        ours = app_of(FakeHost(), base_path=base, api_key="sesame")
        async with client_of(Starlette(routes=[Mount(at, app=ours)])) as client:
            key = {"Authorization": "Bearer sesame"}
            assert (await client.get("/llm/health")).status_code == 200  # a probe: without a key here too
            assert (await client.get("/llm/")).headers["content-type"].startswith("text/html")
            assert (await client.get("/llm/v1/models")).status_code == 401
            assert (await client.get("/llm/v1/models", headers=key)).json()["object"] == "list"
            assert (await client.post("/llm/chat/completions", json=ASK, headers=key)).status_code == 200
            assert (await client.get("/llm/v1", headers=key)).status_code == 404

    run(law)
