"""The path under which a reverse proxy shows this server, taken off requests that still carry it.

Proxies take it away or leave it on; both work, and probes that ask the port itself need not know it.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class BasePath:
    """`base` begins with a slash and does not end with one. Whoever makes links reads `root_path`."""

    def __init__(self, app: ASGIApp, base: str) -> None:
        self._app = app
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            path: str = scope["path"]
            if path == self._base or path.startswith(self._base + "/"):
                path = path[len(self._base) :] or "/"
            scope = {**scope, "path": path, "root_path": self._base}
        await self._app(scope, receive, send)
