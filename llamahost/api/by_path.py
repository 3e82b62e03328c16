"""Find a route by method and path at once, where its path has no parameter; all else is the router's.

A router asks one route after the other, through three coroutines. Knows paths only.
"""

from __future__ import annotations

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send


class ByPath:
    """The same routes, of which the first that fits answers."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._known: dict[tuple[str, str], ASGIApp] = {}
        wide: list[Route] = []
        for route in router.routes:
            assert isinstance(route, Route)
            if route.param_convertors:
                wide.append(route)
            elif not any(each.path_regex.match(route.path) for each in wide):  # else an earlier one may answer
                for method in route.methods or ():
                    self._known.setdefault((method, route.path), route.app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._known.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (found or self._router)(scope, receive, send)
