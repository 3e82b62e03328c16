"""Whose web pages may use this server from a browser: the fetch standard's CORS, for bearer keys and never for cookies.

Outermost but for the base path, so that refusals can be read by a page as well.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamahost.api.hosts import header, is_known, name_of
from llamahost.api.problems import Forbidden, Problem
from llamahost.api.sse import send_json
from llamahost.fleet.settings.manifest import ServerSettings

METHODS = b"GET, HEAD, POST"
EXPOSED = b"retry-after, x-request-id, x-llamahost-model, x-llamahost-replica, x-llamahost-tries"

MAX_AGE_S = b"600"  # that a browser may remember an answer; Chromium allows 7200, others less


class Cors:
    """`origins` as browsers write them, or `*` for every one. Requests without Origin are none of its business."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._is_for_all = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = _header(scope, b"origin")
        allowed = self._allowed(origin)

        if scope["method"] == "OPTIONS" and origin and _header(scope, b"access-control-request-method"):
            await self._preflight(scope, send, origin, allowed)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exposed = [(b"access-control-expose-headers", EXPOSED)] if allowed else []
                message["headers"] = [*message["headers"], *allowed, *exposed, *self._vary()]
            await send(message)

        await self._app(scope, receive, answer)

    def _allowed(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        if not origin or not (self._is_for_all or origin in self._origins):
            return []
        return [(b"access-control-allow-origin", b"*" if self._is_for_all else origin)]

    def _vary(self) -> list[tuple[bytes, bytes]]:
        """A cache must not give one origin's answer to another."""
        return [] if self._is_for_all else [(b"vary", b"origin")]

    async def _preflight(self, scope: Scope, send: Send, origin: bytes, allowed: list[tuple[bytes, bytes]]) -> None:
        if not allowed:
            told = origin.decode("latin-1")[:200]
            problem = Problem(
                status=403,
                message=f"pages of {told!r} may not use this server; --cors-origin {told} would allow it",
                type="permission_error",
            )
            await send_json(send, problem.body, status=problem.status, headers=tuple(self._vary()))
            return
        wanted = _header(scope, b"access-control-request-headers")
        headers = [
            *allowed,
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", MAX_AGE_S),
            # `*` would not cover Authorization, so that what is asked for is allowed by name.
            *([(b"access-control-allow-headers", wanted)] if wanted else []),
            (b"vary", b"origin, access-control-request-headers"),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body"})


def _header(scope: Scope, wanted: bytes) -> bytes:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value for name, value in headers if name == wanted), b"")


def refuse_strange_pages(scope: Scope, settings: ServerSettings) -> None:
    """A page of somebody else's that a browser shows must not change this server: a browser sends such a request
    without asking, and keeps only the answer from the page. Raises Forbidden.

    Where no key is asked for, a page's own name proves nothing if the world's servers answer for it: it may be had to
    mean this machine.
    """
    origin = header(scope, b"origin")
    if not origin or origin in settings.cors_origins or "*" in settings.cors_origins:
        return
    name, place = name_of(origin), origin.partition("://")[2].lower()
    has_key = settings.api_key is not None or settings.api_key_file is not None
    is_own = name != "" and place == header(scope, b"host").lower() and (has_key or is_known(name, settings))
    if not is_own:
        raise Forbidden(f"pages of {origin[:200]!r} may not change this server; cors_origins names those that may")
