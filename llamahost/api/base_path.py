"""The path under which a reverse proxy shows this server, taken off requests that still carry it.

Proxies take it away or leave it on; both work, and probes that ask the port itself need not know it.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


def without(path: str, base: str) -> str:
    """The path below `base`, which begins with a slash and does not end with one; another path as it is."""
    return path[len(base) :] or "/" if path == base or path.startswith(base + "/") else path


def below_root(scope: Scope) -> Scope:
    """As if it was mounted nowhere; `app_root_path` tells where it is, as applications of Starlette have it.

    A proxy may have taken what is before the mount off the path, though not off `root_path`.
    """
    outer = scope.get("root_path", "")
    if not outer:
        return scope
    path = without(scope["path"], outer)
    if path is scope["path"]:
        path = without(path, outer.removeprefix(scope.get("app_root_path", "")))
    return {**scope, "path": path, "root_path": "", "app_root_path": outer, "path_params": {}}


class BasePath:
    """Takes it off once. `root_path` stays empty: the router would take that off once more."""

    def __init__(self, app: ASGIApp, base: str) -> None:
        self._app = app
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = {**scope, "path": without(scope["path"], self._base)}
        await self._app(scope, receive, send)
