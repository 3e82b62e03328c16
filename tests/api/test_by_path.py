"""The law of finding a route by its path: who answers is whom the router would have asked."""

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from llamahost.api.by_path import ByPath
from tests.on_loop import on_loop


def told(path: str, name: str, *methods: str) -> Route:
    # An instance, which Starlette takes for an ASGI application, as ours are.
    return Route(path, PlainTextResponse(name), methods=methods)


ROUTES = (
    told("/a/{x}", "wide", "GET"),
    told("/a/b", "narrow", "GET", "POST"),
    told("/c", "first", "GET"),
    told("/c", "second", "GET", "PUT"),
    told("/d/{x:path}", "deep", "GET"),
)


async def answered(app: ASGIApp, method: str, path: str) -> tuple[int, str]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        answer = await client.request(method, path)
        return answer.status_code, answer.text


@pytest.mark.parametrize("path", ["/a/b", "/a/c", "/a", "/c", "/c/", "/%63", "/d/", "/d/e/f", "/nothing"])
@on_loop
async def test_the_first_route_that_fits_answers_as_the_router_says(path: str) -> None:
    router = Router(ROUTES, redirect_slashes=False)
    for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
        assert await answered(ByPath(router), method, path) == await answered(router, method, path), method
