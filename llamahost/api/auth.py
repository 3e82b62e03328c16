"""Who may ask. Keys are kept as digests and compared in constant time; probes need none."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from llamahost.api.problems import Unauthorized
from llamahost.core.errors import ManifestError
from llamahost.fleet.settings.manifest import ServerSettings


class Keys:
    """The keys that open the API; none at all means that it is open."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(sha256(key.encode()).digest() for key in keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keys) and set(self._digests) == set(other._digests)

    def __hash__(self) -> int:
        return hash(frozenset(self._digests))

    @property
    def is_open(self) -> bool:
        return not self._digests

    def fits(self, key: bytes) -> bool:
        given = sha256(key).digest()
        # Every one is compared, so that the time tells nothing of which was close.
        return sum([hmac.compare_digest(given, digest) for digest in self._digests]) > 0


def keys_of(settings: ServerSettings) -> Keys:
    """The key that the settings hold and those of their file. Reads it once. Raises ManifestError."""
    keys = [settings.api_key.strip()] if settings.api_key else []
    if settings.api_key_file is not None:
        keys += read_keys(settings.api_key_file)
    return Keys(keys)


def read_keys(path: Path) -> list[str]:
    """One key a line; blank lines and comments, which begin with #, are passed over. Raises ManifestError.

    A file without a key is a mistake: it must not open the server to everybody.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ManifestError(f"api_key_file {path} cannot be read: {reason}", key="api_key_file") from None
    keys = [key for line in text.splitlines() if (key := line.strip()) and not key.startswith("#")]
    if not keys:
        raise ManifestError(f"api_key_file {path} holds no key", key="api_key_file")
    return keys


class Auth:
    """Bearer keys, or x-api-key as other dialects send it. `open_paths` are let through."""

    def __init__(self, app: ASGIApp, keys: Keys, *, open_paths: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._keys.is_open and scope["path"] not in self._open_paths:
            key = key_of(scope)
            if key is None:
                raise Unauthorized("this server needs an API key; send it as `Authorization: Bearer <key>`")
            if not self._keys.fits(key):
                raise Unauthorized("this API key is not valid here")
        await self._app(scope, receive, send)


def key_of(scope: Scope) -> bytes | None:
    """The key that the request shows, in whichever header; None where it shows none."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer" and key.strip():
                return key.strip()
        elif name == b"x-api-key" and value:
            return value
    return None
