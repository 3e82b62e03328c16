"""The path under which a reverse proxy shows this server, taken off requests that still carry it.

Proxies take it away or leave it on; both work, and probes that ask the port itself need not know it.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


def without(path: str, base: str) -> str:
    """The path below `base`, which begins with a slash and does not end with one; another path as it is."""
    return path[len(base) :] or "/" if path == base or path.startswith(base + "/") else path


class BasePath:
    """Takes it off once. `root_path` stays empty: the router would take that off once more."""

    def __init__(self, app: ASGIApp, base: str) -> None:
        self._app = app
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = {**scope, "path": without(scope["path"], self._base)}
        await self._app(scope, receive, send)
