"""Keep web pages from a server on its user's own machine that asks for no key: a browser sends what any page asks for.

Two ways lead around CORS. A page's own name can be had to mean this machine, which its `Host` shows; and a POST may be
sent blindly, without its answer, which `Sec-Fetch-Site` or `Origin` shows. Connections from elsewhere, unix sockets and
servers with a key are none of this business.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from llamahost.api.problems import Forbidden
from llamahost.fleet.settings.manifest import ServerSettings

_PRIVATE = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Names that nobody can have the world's servers answer for."""


class Hosts:
    """`open_paths` are answered to anybody."""

    @staticmethod
    def are_asked(settings: ServerSettings, *, has_key: bool) -> bool:
        """Whether pages could reach what they are not meant to."""
        is_private = settings.unix_socket is None and is_on_loopback(settings.host)
        return is_private and not has_key and "*" not in settings.cors_origins

    def __init__(self, app: ASGIApp, settings: ServerSettings, *, open_paths: frozenset[str]) -> None:
        self._app = app
        self._settings = settings
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_paths and _is_over_loopback(scope):
            self._refuse_strange_names(scope)
            if scope["method"] == "POST":
                self._refuse_strange_pages(scope)
        await self._app(scope, receive, send)

    def _refuse_strange_names(self, scope: Scope) -> None:
        place = header(scope, b"host")
        if place and not is_known(name_of(f"//{place}"), self._settings):
            raise Forbidden(
                f"a web page may have had the name {place[:200]!r} mean this machine: without an API key only "
                "addresses, localhost and names in allowed_hosts (--allowed-host) are answered"
            )

    def _refuse_strange_pages(self, scope: Scope) -> None:
        origin, origins = header(scope, b"origin"), self._settings.cors_origins
        if origin in origins or not (origin == "null" or origin.startswith(("http://", "https://"))):
            return  # no page of the web: a program, or an extension that its user let in
        site = header(scope, b"sec-fetch-site")
        if site == "cross-site" or (not site and not is_known(name_of(origin), self._settings)):
            raise Forbidden(
                f"pages of {origin[:200]!r} may not use this server, which asks for no API key: cors_origins "
                "(--cors-origin) names those that may, allowed_hosts (--allowed-host) names of the server itself"
            )


@lru_cache(64)  # each request asks it of the same address
def is_on_loopback(host: str) -> bool:
    """Whether a server that listens there is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_known(name: str, settings: ServerSettings) -> bool:
    """Whether a host's name is an address, means something on this machine or network alone, or is named as ours."""
    return is_near(name) or any(_fits(name, pattern.lower()) for pattern in settings.allowed_hosts)


@lru_cache(64)
def is_near(name: str) -> bool:
    if "." not in name or name.endswith(_PRIVATE):
        return bool(name)
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@lru_cache(64)
def name_of(url: str) -> str:
    """The host's name in it, or nothing."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:  # a bracket that is left open
        return ""


def header(scope: Scope, wanted: bytes) -> str:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == wanted:
            return value.decode("latin-1")
    return ""


def _fits(name: str, pattern: str) -> bool:
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def _is_over_loopback(scope: Scope) -> bool:
    server = scope.get("server")
    return server is not None and is_on_loopback(str(server[0]))
