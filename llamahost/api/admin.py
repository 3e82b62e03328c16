"""The admin routes under /api: models, requests, rates and GPUs as they are, and events as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import parse_qs

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llamahost.api.admin_told import count, gpus_told, model_told_whole, request_told
from llamahost.api.admin_types import EventKind, LoadBody, ReloadInfo, RequestsInfo, StatsInfo, UnloadBody
from llamahost.api.body import MAX_ORDER_BYTES, decode_body, read_body
from llamahost.api.border import Gate
from llamahost.api.cors import refuse_strange_pages
from llamahost.api.feed import AsIs
from llamahost.api.service import Service, model_named, names_of
from llamahost.api.slices import listed, send_slices
from llamahost.api.sse import STREAM_HEADERS, EventStream, send_json, while_connected
from llamahost.api.watch import Watch
from llamahost.core.errors import InvalidRequest, ManifestError, ModelNotFound
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.ops.gpu_monitor import GpuMonitor
from llamahost.ops.journal import N_KEPT
from llamahost.ops.tally import Tally

KINDS: tuple[EventKind, ...] = get_args(EventKind)
N_REQUESTS = 100
OVERRIDES = ("devices", "n_ctx", "n_slots", "n_gpu_layers")
LOAD = msgspec.json.Decoder(LoadBody)
UNLOAD = msgspec.json.Decoder(UnloadBody)
POLLED = frozenset({"/api/models", "/api/stats", "/api/gpus", "/api/requests"})
"""What dashboards ask once a second."""

_encode = msgspec.json.Encoder().encode


Again = Callable[[], Awaitable[tuple[str, ...]]]
"""Reads the manifest again, and serves it; tells what of the server's settings waits for a restart. Raises
ManifestError, and then the old one stays."""


@dataclass(frozen=True, slots=True)
class Admin:
    """What all of these routes look at."""

    service: Service
    settings: ServerSettings
    tally: Tally
    gpus: GpuMonitor
    watch: Watch
    gate: Gate
    reload: Again | None
    _changes: set[asyncio.Task[None]] = field(default_factory=set)

    def routes(self) -> list[Route]:
        """Those with a name in the path last: it may hold slashes."""
        return [
            Route("/api/models", ListModels(self.watch), methods=["GET"]),
            _get("/api/stats", self.stats),
            _get("/api/gpus", self.list_gpus),
            _get("/api/requests", self.list_requests),
            Route("/api/events", Events(self), methods=["GET"]),
            Route("/api/reload", Reload(self), methods=["POST"]),
            Route("/api/models/{name:path}/load", Change(self, "load"), methods=["POST"]),
            Route("/api/models/{name:path}/unload", Change(self, "unload"), methods=["POST"]),
            _get("/api/models/{name:path}", self.show_model),
        ]

    def show_model(self, scope: Scope) -> object:
        """By name or alias. Raises ModelNotFound, and HTTPException where the path is that of a change."""
        statuses = self.service.models()
        count(self.tally, statuses)
        name = scope["path_params"]["name"]
        try:
            status = model_named(statuses, name, self.service.routes())
        except ModelNotFound:
            if name.endswith(("/load", "/unload")):
                raise HTTPException(405, headers={"Allow": "POST"}) from None
            raise
        return model_told_whole(status, self.tally.rates(status.name))

    async def load(self, name: str, data: bytes, receive: Receive) -> int:
        """The status of the answer. A load goes on when its client leaves. Raises ManifestError, and as the library."""
        body = decode_body(data, LOAD) if data.strip() else LoadBody()
        given: dict[str, object] = {
            key: tuple(value) if isinstance(value, list) else value
            for key in OVERRIDES
            if (value := getattr(body, key)) is not None
        }
        return await self._do(self.service.load(name, given), receive, waits=body.wait)

    async def unload(self, name: str, data: bytes, receive: Receive) -> int:
        body = decode_body(data, UNLOAD) if data.strip() else UnloadBody()
        return await self._do(self.service.unload(name), receive, waits=body.wait)

    async def _do(self, change: Coroutine[Any, Any, None], receive: Receive, *, waits: bool) -> int:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._over)
        if waits:
            await while_connected(receive, _shielded(task))
            return 200
        await asyncio.wait((task,), timeout=0.0)  # what is wrong at once is told
        if task.done():
            task.result()
        return 202

    def _over(self, task: asyncio.Task[None]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waited, and by the model's state

    async def again(self) -> tuple[str, ...]:
        """What waits for a restart. Raises InvalidRequest with what is wrong; what is served stays then."""
        if self.reload is None:
            raise InvalidRequest("this server was started without a manifest that could be read again")
        try:
            waiting = await self.reload()
        except ManifestError as error:
            raise InvalidRequest(f"the manifest is as before: {error}", param=error.key or None) from error
        self.watch.tell_all()
        return waiting

    def stats(self, scope: Scope) -> object:
        statuses = self.service.models()
        count(self.tally, statuses)
        rates = self.tally.rates()
        return StatsInfo(
            tokens_per_second=round(rates.tokens_per_s, 2),
            requests_per_minute=rates.requests_per_min,
            active_connections=self.gate.n_inside - 1,  # but for this one
            models_loaded=sum(status.state == "ready" for status in statuses),
        )

    def list_gpus(self, scope: Scope) -> object:
        return gpus_told(self.gpus.latest)

    def list_requests(self, scope: Scope) -> object:
        """The newest first; `limit` of them, of one `model` or route, which may not be served any more."""
        asked = _query(scope)
        n, model = asked.get("limit", str(N_REQUESTS)), asked.get("model", "")
        if not (n.isascii() and n.isdigit() and len(n) < 10 and 1 <= int(n) <= N_KEPT):
            raise InvalidRequest(f"`limit` must be a number from 1 to {N_KEPT}, not {n[:40]!r}", param="limit")
        name = model and (names_of(self.service.models(), self.service.routes()).find(model) or model)
        return RequestsInfo(requests=[request_told(entry) for entry in self.tally.journal.last(int(n), name)])


@dataclass(frozen=True, slots=True)
class Tell:
    """GET of something that is there at once."""

    what: Callable[[Scope], object]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, _encode(self.what(scope)))


@dataclass(frozen=True, slots=True)
class ListModels:
    """GET /api/models: ModelsInfo, and there may be thousands."""

    watch: Watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_slices(send, listed(b'{"models":[', map(_encode, self.watch.each())), b"application/json")


@dataclass(frozen=True, slots=True)
class Change:
    """POST that loads or unloads the model in the path: 200 when it is done, 202 for whoever does not wait."""

    admin: Admin
    way: Literal["load", "unload"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_strange_pages(scope, self.admin.settings)
        data = await read_body(scope, receive, MAX_ORDER_BYTES, self.admin.settings.stall_s)
        service = self.admin.service
        status = model_named(service.models(), scope["path_params"]["name"], service.routes())
        do = self.admin.load if self.way == "load" else self.admin.unload
        try:
            code = await do(status.name, data, receive)
        except ManifestError as error:
            raise InvalidRequest(str(error), param=error.key or None) from error
        scope["path_params"]["name"] = status.name
        await send_json(send, _encode(self.admin.show_model(scope)), status=code)


@dataclass(frozen=True, slots=True)
class Reload:
    """POST /api/reload: the manifest is read again; the answer is how the models are then."""

    admin: Admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_strange_pages(scope, self.admin.settings)
        await read_body(scope, receive, MAX_ORDER_BYTES, self.admin.settings.stall_s)
        waiting = await self.admin.again()
        models = self.admin.watch.models().models
        await send_json(send, _encode(ReloadInfo(models=models, waits_for_restart=list(waiting))))


async def _shielded(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)


@dataclass(frozen=True, slots=True)
class Events:
    """GET /api/events, for as long as the client stays and reads; `kinds` names those that are wanted."""

    admin: Admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kinds = _kinds(_query(scope).get("kinds"))
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            await send({"type": "http.response.body"})
            return
        watch, settings = self.admin.watch, self.admin.settings
        stream = EventStream(
            watch.feed.listen(kinds, lambda: watch.first(kinds)),
            AsIs(),
            ping_s=settings.ping_s,
            stall_s=settings.stall_s,
        )
        await stream(receive, send)


def _kinds(asked: str | None) -> frozenset[EventKind]:
    if asked is None:
        return frozenset(KINDS)
    wanted = {"end", *filter(None, asked.split(","))}
    if unknown := sorted(wanted - set(KINDS)):
        raise InvalidRequest(f"there are no events {unknown[0][:40]!r}, only {', '.join(KINDS)}", param="kinds")
    return frozenset(kind for kind in KINDS if kind in wanted)


def _query(scope: Scope) -> dict[str, str]:
    """The last of each name; a name without a value is there too, and empty."""
    text = scope["query_string"].decode("latin-1")
    return {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}


def _get(path: str, what: Callable[[Scope], object]) -> Route:
    return Route(path, Tell(what), methods=["GET"])
