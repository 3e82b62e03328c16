"""Behind a proxy that shows the server under a path of its own."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from llamahost.api.base_path import BasePath
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

    run(law)


def test_whoever_makes_links_knows_the_base_and_others_scopes_stay_as_they_are() -> None:
    async def law() -> None:
        seen: list[Scope] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)

        async def nothing(*_: object) -> None:
            raise AssertionError

        outer = {"type": "http", "path": "/llm/v1/models", "root_path": ""}
        await BasePath(app, "/llm")(outer, nothing, nothing)  # type: ignore[arg-type] # never called
        assert (seen[0]["path"], seen[0]["root_path"]) == ("/v1/models", "/llm")
        assert outer["path"] == "/llm/v1/models"

    run(law)
