"""The admin routes under /api: models, requests, rates and GPUs as they are, and events as they happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args
from urllib.parse import parse_qs

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llamahost.api.admin_told import count, gpus_told, model_told_whole, request_told
from llamahost.api.admin_types import EventKind, RequestsInfo, StatsInfo
from llamahost.api.border import Gate
from llamahost.api.feed import AsIs
from llamahost.api.service import Service, model_named
from llamahost.api.sse import STREAM_HEADERS, EventStream, send_json
from llamahost.api.watch import Watch
from llamahost.core.errors import InvalidRequest
from llamahost.fleet.manifest import ServerSettings
from llamahost.ops.gpu_monitor import GpuMonitor
from llamahost.ops.journal import N_KEPT
from llamahost.ops.tally import Tally

KINDS: tuple[EventKind, ...] = get_args(EventKind)
N_REQUESTS = 100
POLLED = frozenset({"/api/models", "/api/stats", "/api/gpus", "/api/requests"})
"""What dashboards ask once a second."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Admin:
    """What all of these routes look at."""

    service: Service
    settings: ServerSettings
    tally: Tally
    gpus: GpuMonitor
    watch: Watch
    gate: Gate

    def routes(self) -> list[Route]:
        """Those with a name in the path last: it may hold slashes."""
        return [
            _get("/api/models", self.list_models),
            _get("/api/stats", self.stats),
            _get("/api/gpus", self.list_gpus),
            _get("/api/requests", self.list_requests),
            Route("/api/events", Events(self), methods=["GET"]),
            _get("/api/models/{name:path}", self.show_model),
        ]

    def list_models(self, scope: Scope) -> object:
        return self.watch.models()

    def show_model(self, scope: Scope) -> object:
        """By name or alias. Raises ModelNotFound."""
        statuses = self.service.models()
        count(self.tally, statuses)
        status = model_named(statuses, scope["path_params"]["name"])
        return model_told_whole(status, self.tally.rates(status.name))

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
        """The newest first; `limit` of them, of one `model`."""
        asked = _query(scope)
        n, model = asked.get("limit", str(N_REQUESTS)), asked.get("model", "")
        if not (n.isascii() and n.isdigit() and 1 <= int(n[:9]) <= N_KEPT):
            raise InvalidRequest(f"`limit` must be a number from 1 to {N_KEPT}, not {n[:40]!r}", param="limit")
        return RequestsInfo(requests=[request_told(entry) for entry in self.tally.journal.last(int(n), model)])


@dataclass(frozen=True, slots=True)
class Tell:
    """GET of something that is there at once."""

    what: Callable[[Scope], object]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, _encode(self.what(scope)))


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
