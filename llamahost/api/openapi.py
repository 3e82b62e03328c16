"""/openapi.json, and /docs, the same for eyes. Both are made when first asked for: no start has to wait for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from urllib.parse import quote

import orjson
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llamahost.api.sse import send_json
from llamahost.api.web import Page

OPEN_PATHS = frozenset({"/openapi.json", "/docs"})
"""Shown without a key: they tell nothing of this server but its version."""


def openapi_routes(base_path: str = "") -> list[Route]:
    return [
        Route("/openapi.json", Document(base_path), methods=["GET"]),
        Route("/docs", DocsPage(), methods=["GET"]),
    ]


@dataclass(frozen=True, slots=True)
class Document:
    """GET /openapi.json. Its server is where a proxy shows this one, else where another application has it mounted."""

    base_path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        at = self.base_path or quote(scope.get("app_root_path", ""))
        await send_json(send, orjson.dumps({**_document(), "servers": [{"url": at or "/"}]}))


@dataclass(frozen=True, slots=True)
class DocsPage:
    """GET /docs."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _page()(scope, receive, send)


@functools.cache
def _document() -> dict[str, object]:
    from llamahost.api.document import document

    return document()


@functools.cache
def _page() -> Page:
    from llamahost.api.docs_page import render

    return Page.of(render(_document()))
