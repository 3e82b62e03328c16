"""A hub on the loopback, as huggingface.co speaks: repositories, revisions, files behind a redirection to a store.

It can break off, refuse, lie and wait, as tests tell it. Its truth is held by the real client in test_pull.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.on_loop import LIMIT_S

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = 4096


@dataclass
class Repo:
    """Files by path. `token`: who may read; with `is_gated` whoever may not is told so."""

    files: dict[str, bytes]
    token: str = ""
    is_gated: bool = False
    revisions: tuple[str, ...] = ("main", COMMIT)


@dataclass
class Asked:
    """A request that came. `is_store`: to the store that files are redirected to."""

    method: str
    path: str
    headers: dict[str, str]
    is_store: bool


@dataclass
class LoopbackHub:
    """What it holds, and what goes wrong with the next bodies that its store sends."""

    repos: dict[str, Repo] = field(default_factory=dict)
    endpoint: str = ""
    store: str = ""
    breaks_after: list[int] = field(default_factory=list)  # bytes of each of the next bodies, until none are left
    busy: list[int] = field(default_factory=list)  # statuses of the next requests for a listing
    refusals: list[int] = field(default_factory=list)  # statuses of the next requests to the store
    ignores_range: bool = False
    n_most: int | None = None  # of a body: more must be asked for in pieces, as of a network of caches
    corrupts: bool = False
    asked: list[Asked] = field(default_factory=list)
    gate: threading.Event | None = None  # the store waits for it after the first piece of each body
    waiting: threading.Event = field(default_factory=threading.Event)  # set when it does

    def reset(self) -> None:
        self.repos.clear()
        self.breaks_after.clear()
        self.refusals.clear()
        self.busy.clear()
        self.asked.clear()
        self.ignores_range = self.corrupts = False
        self.n_most = None
        self.gate = None
        self.waiting.clear()

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> Repo:
        self.repos[name] = Repo(files, **options)
        return self.repos[name]

    @property
    def stored(self) -> list[Asked]:
        """The bodies that were asked of the store."""
        return [each for each in self.asked if each.is_store and each.method == "GET"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Listener(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are what is tested; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """It listens on two ports: the hub, and the store."""
    hub = LoopbackHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        is_store = False

        def do_GET(self) -> None:
            self.answer(has_body=True)

        def do_HEAD(self) -> None:
            self.answer(has_body=False)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — its name in the base class
            pass

        def answer(self, *, has_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            hub.asked.append(Asked(self.command, self.path, headers, self.is_store))
            try:
                if self.is_store:
                    self.send_stored(path, headers, has_body=has_body)
                elif path.startswith("/api/models/"):
                    self.send_listing(path.removeprefix("/api/models/"))
                else:
                    self.send_place(path)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def repo_at(self, path: str) -> tuple[Repo, str, list[str]] | None:
            """The repository, the revision and what follows; None where a refusal was sent."""
            parts = path.strip("/").split("/")
            name = "/".join(parts[:2])
            repo = hub.repos.get(name)
            is_known = repo is not None and (
                not repo.token or self.headers.get("authorization") == f"Bearer {repo.token}"
            )
            is_listing = len(parts) < 3 or parts[2] in ("revision", "tree")
            if repo is None or (not is_known and not repo.is_gated):
                self.refuse(401, "RepoNotFound", "Invalid username or password.")
                return None
            if not is_known and not is_listing:
                self.refuse(403, "GatedRepo", f"Access to model {name} is restricted.")
                return None
            revision = parts[3] if len(parts) > 3 else "main"
            if revision not in repo.revisions:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return None
            return repo, revision, parts[4:]

        def send_listing(self, path: str) -> None:
            if hub.busy:
                self.refuse(hub.busy.pop(0), "", "not now")
                return
            found = self.repo_at(path)
            if found is None:
                return
            repo, _, _ = found
            siblings = [
                {
                    "rfilename": name,
                    "size": len(data),
                    "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                    "lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 134},
                }
                for name, data in repo.files.items()
            ]
            for each in siblings:
                if not str(each["rfilename"]).endswith(".gguf"):
                    del each["lfs"]
            self.send_json({"id": "/".join(path.split("/")[:2]), "sha": COMMIT, "siblings": siblings})

        def send_place(self, path: str) -> None:
            found = self.repo_at(path)
            if found is None:
                return
            repo, _, rest = found
            data = repo.files.get("/".join(rest))
            if data is None:
                self.refuse(404, "EntryNotFound", "Entry not found")
                return
            digest = sha256(data)
            self.send_response(302)
            self.send_header("location", f"{hub.store}/{digest}?signed=1")
            self.send_header("x-repo-commit", COMMIT)
            self.send_header("x-linked-etag", f'"{digest}"')
            self.send_header("x-linked-size", str(len(data)))
            self.send_header("etag", f'"{digest}"')
            self.send_header("content-length", "0")
            self.end_headers()

        def send_stored(self, path: str, headers: dict[str, str], *, has_body: bool) -> None:
            digest = path.strip("/")
            every = (data for repo in hub.repos.values() for data in repo.files.values())
            data = next((data for data in every if sha256(data) == digest), b"")
            if hub.refusals:
                self.refuse(hub.refusals.pop(0), "", "not now")
                return
            is_part = "range" in headers and not hub.ignores_range
            first, _, last = headers["range"].removeprefix("bytes=").partition("-") if is_part else ("0", "", "")
            start = int(first)
            body = data[start : int(last) + 1] if last else data[start:]
            if hub.n_most is not None and len(body) > hub.n_most:
                self.refuse(400, "", "Bad Request")
                return
            if hub.corrupts:
                body = body[:-1] + bytes([body[-1] ^ 1])
            self.send_response(206 if is_part else 200)
            if is_part:
                self.send_header("content-range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
            self.send_header("content-length", str(len(body)))
            self.send_header("etag", f'"{digest}"')
            self.end_headers()
            if not has_body:
                return
            n_sent = len(body)
            if hub.breaks_after:
                n_sent = min(n_sent, hub.breaks_after.pop(0))
                self.close_connection = n_sent < len(body) or self.close_connection
            self.wfile.write(body[: min(PIECE, n_sent)])
            if hub.gate is not None:
                self.wfile.flush()
                hub.waiting.set()
                hub.gate.wait(LIMIT_S)
            self.wfile.write(body[min(PIECE, n_sent) : n_sent])

        def send_json(self, value: object, status: int = 200, **headers: str) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str, message: str) -> None:
            headers = {"x_error_code": code, "x_error_message": message} if code else {}
            self.send_json({"error": message}, status, **headers)

    class Store(Handler):
        is_store = True

    servers = [Listener(("127.0.0.1", 0), handler) for handler in (Handler, Store)]
    hub.endpoint, hub.store = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()
