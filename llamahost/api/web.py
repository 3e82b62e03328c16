"""The pages that a browser is given: read once, told apart by their digest, and bound by a strict policy.

A page is one file. What it may run is exactly the script and the style that it holds, by hash; it talks to this server
and to nobody else. It is shown without a key: what it asks for afterwards needs one.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from starlette.types import Receive, Scope, Send

FOLDER = Path(__file__).resolve().parent.parent / "web"

_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Page:
    """GET / : one static page. Its bytes never change while the server runs."""

    body: bytes
    etag: bytes
    policy: bytes

    @staticmethod
    def of(body: bytes) -> Page:
        return Page(body, b'"' + sha256(body).hexdigest()[:32].encode() + b'"', policy_of(body))

    @staticmethod
    def read(name: str) -> Page:
        """The page of this name from the package."""
        return Page.of((FOLDER / name).read_bytes())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"etag", self.etag),
            (b"cache-control", b"no-cache"),  # asked for anew, and answered 304 while it is the same
            (b"content-security-policy", self.policy),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"referrer-policy", b"no-referrer"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if self.is_known(scope):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body"})
            return
        headers += [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})

    def is_known(self, scope: Scope) -> bool:
        """Whether the browser holds these very bytes."""
        held = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
        return any(tag.strip().removeprefix(b"W/") in (self.etag, b"*") for tag in held.split(b",")) if held else False


def policy_of(body: bytes) -> bytes:
    """A Content-Security-Policy that allows the page's own inline script and style, and nothing besides."""
    hashes: dict[bytes, list[bytes]] = {b"script": [], b"style": []}
    for kind, text in _INLINE.findall(body):
        hashes[kind].append(b"'sha256-" + base64.b64encode(sha256(text).digest()) + b"'")
    return b"; ".join(
        [
            b"default-src 'none'",
            b"script-src " + (b" ".join(hashes[b"script"]) or b"'none'"),
            b"style-src " + (b" ".join(hashes[b"style"]) or b"'none'"),
            b"connect-src 'self'",
            b"img-src data:",  # the icon stands in the page
            b"base-uri 'none'",
            b"form-action 'none'",
            b"frame-ancestors 'none'",
            b"require-trusted-types-for 'script'",  # text becomes HTML nowhere
        ]
    )
