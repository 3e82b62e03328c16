"""/openapi.json, and /docs, the same for eyes. Both are made when first asked for: no start has to wait for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

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
        Route("/docs", DocsPage(base_path), methods=["GET"]),
    ]


@dataclass(frozen=True, slots=True)
class Document:
    """GET /openapi.json."""

    base_path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, _document_of(self.base_path))


@dataclass(frozen=True, slots=True)
class DocsPage:
    """GET /docs."""

    base_path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _page_of(self.base_path)(scope, receive, send)


@functools.cache
def _document_of(base_path: str) -> bytes:
    from llamahost.api.document import document

    return orjson.dumps(document(base_path))


@functools.cache
def _page_of(base_path: str) -> Page:
    from llamahost.api.docs_page import render
    from llamahost.api.document import document

    return Page.of(render(document(base_path)))
