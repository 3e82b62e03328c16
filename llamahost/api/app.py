"""The ASGI application: routes, and the layers around them. Starts and closes the library with its own life.

[BasePath →] [Cors →] Border (id, log, problems, gate) → [Hosts →] Auth → ByPath or Router → one class a route
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from llamahost.api.adapters import AdaptersRoute, LoadAdapterRoute, UnloadAdapterRoute
from llamahost.api.admin import POLLED, Admin, Again
from llamahost.api.auth import Auth, Keys, keys_of
from llamahost.api.base_path import BasePath, below_root
from llamahost.api.body import Reading
from llamahost.api.border import Border, Gate
from llamahost.api.by_path import ByPath
from llamahost.api.cors import Cors
from llamahost.api.elsewhere import no_route
from llamahost.api.embeddings import embeddings_route
from llamahost.api.feed import OTHER_KEYS
from llamahost.api.hosts import Hosts
from llamahost.api.infill import InfillRoute, Latest
from llamahost.api.openai import ListModels, chat_route, completion_route
from llamahost.api.openapi import OPEN_PATHS, openapi_routes
from llamahost.api.probes import HealthProbe, MetricsProbe, ReadyProbe
from llamahost.api.pull import PullRoute
from llamahost.api.rerank import rerank_route
from llamahost.api.service import Service
from llamahost.api.watch import Watch
from llamahost.api.web import Page
from llamahost.files.pulls import Pulls
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.ops.gpu_metrics import GpuCollector
from llamahost.ops.gpu_monitor import GpuMonitor
from llamahost.ops.tally import Tally

PROBES = frozenset({"/health", "/ready", "/readiness"})
PULLS_PATIENCE_S = 1.0  # for threads that wait for the hub; they keep nobody, and what has come is kept
PAGES = frozenset({"/"})  # shown without a key: what a page asks for afterwards needs one


class App:
    """One ASGI callable. `gate` closes it to new requests; `on_start` is called on the loop when it begins to live."""

    def __init__(
        self,
        service: Service,
        settings: ServerSettings,
        tally: Tally,
        gpus: GpuMonitor,
        *,
        reload: Again | None = None,
        keys: Keys | None = None,
        from_manifest: bool = False,
        fingerprint: str = "llamahost",
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._watch = Watch(service, tally, gpus)
        self._pulls = Pulls()
        self.gate = Gate(self._end_long_ones)
        self._service = service
        self._tally, self._gpus, self._reload = tally, gpus, reload
        self._from_manifest, self._fingerprint = from_manifest, fingerprint
        self._created = int(time.time())
        self.on_start = on_start
        self._reading = Reading()
        self._infills: Latest = {}
        self._keys: Keys | None = None
        tally.metrics.registry.register(GpuCollector(gpus))
        self.adopt(settings, keys or keys_of(settings))

    def adopt(self, settings: ServerSettings, keys: Keys) -> None:
        """Have requests from now on answered by these; those inside end as they began, but for such as never end."""
        if self._keys is not None and self._keys != keys:
            self._watch.feed.end(OTHER_KEYS)
        self._keys = keys
        self.admin = Admin(self._service, settings, self._tally, self._gpus, self._watch, self.gate, self._reload)
        self._app = self._layered(settings, keys, self._routed(settings))

    def _routed(self, settings: ServerSettings) -> Router:
        service, fingerprint, metrics = self._service, self._fingerprint, self._tally.metrics
        chat = chat_route(service, settings, fingerprint, self._reading)
        completion = completion_route(service, settings, fingerprint, self._reading)
        embeddings = embeddings_route(service, settings, self._reading)
        infill = InfillRoute(service, settings, self._reading, self._infills)
        rerank = rerank_route(service, settings, self._reading)
        rerank_paths = (*_both("/rerank"), *_both("/reranking"), "/v2/rerank")  # Cohere's second version among them
        adapters = AdaptersRoute(service, settings)
        load_adapter, unload_adapter = LoadAdapterRoute(service, settings), UnloadAdapterRoute(service, settings)
        models = ListModels(service, created=self._created)
        return Router(
            [
                *[Route(path, chat, methods=["POST"]) for path in _both("/chat/completions")],
                *[Route(path, completion, methods=["POST"]) for path in _both("/completions")],
                *[Route(path, embeddings, methods=["POST"]) for path in _both("/embeddings")],
                *[Route(path, infill, methods=["POST"]) for path in _both("/infill")],
                *[Route(path, rerank, methods=["POST"]) for path in rerank_paths],
                *[Route(path, models, methods=["GET"]) for path in _both("/models")],
                *[Route(path, models, methods=["GET"]) for path in _both("/models/{name:path}")],
                *[Route(path, adapters, methods=["GET", "POST"]) for path in _both("/lora-adapters")],
                *[Route(path, load_adapter, methods=["POST"]) for path in _both("/load_lora_adapter")],
                *[Route(path, unload_adapter, methods=["POST"]) for path in _both("/unload_lora_adapter")],
                Route("/", Page.read("chat.html"), methods=["GET"]),
                Route("/health", HealthProbe(service, self._from_manifest), methods=["GET"]),
                *[Route(path, ReadyProbe(service), methods=["GET"]) for path in ("/ready", "/readiness")],
                Route("/metrics", MetricsProbe(service, metrics), methods=["GET"]),
                Route("/api/pull", PullRoute(service, self._pulls, settings, self._reading), methods=["POST"]),
                *self.admin.routes(),
                *openapi_routes(settings.base_path),
            ],
            redirect_slashes=False,
            default=no_route,
        )

    def _layered(self, settings: ServerSettings, keys: Keys, router: Router) -> ASGIApp:
        inner: ASGIApp = Auth(ByPath(router), keys, open_paths=PROBES | PAGES | OPEN_PATHS)
        if Hosts.are_asked(settings, has_key=not keys.is_open):
            inner = Hosts(inner, settings, open_paths=PROBES)
        outer: ASGIApp = Border(
            inner,
            self.gate,
            open_paths=PROBES | {"/metrics"},
            quiet_paths=POLLED,
            on_response=self._tally.metrics.responded,
        )
        if settings.cors_origins:
            outer = Cors(outer, settings.cors_origins)
        return BasePath(outer, settings.base_path) if settings.base_path else outer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        scope = below_root(scope)
        scope["app"] = self  # Starlette's routes then raise a wrong method instead of answering it in plain text
        await self._app(scope, receive, send)

    def _end_long_ones(self) -> None:
        """What would not end by itself while the server waits for answers that are under way."""
        self._watch.feed.close()
        self._pulls.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        async with self.lifespan():
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """What it lives in, for an application that has it mounted: servers tell of their lives to the outermost alone.

        app = FastAPI(lifespan=llm.lifespan); app.mount("/llm", llm)
        """
        await self._service.start()
        self._watch.start()
        self.on_start()
        try:
            yield
        finally:
            self._watch.close()
            self._pulls.close()
            await self._pulls.ended(PULLS_PATIENCE_S)
            await self._service.aclose()
            self._reading.close()


def create_app(
    service: Service,
    settings: ServerSettings | None = None,
    *,
    tally: Tally | None = None,
    gpus: GpuMonitor | None = None,
    reload: Again | None = None,
    keys: Keys | None = None,
    from_manifest: bool = False,
    fingerprint: str = "llamahost",
    on_start: Callable[[], None] = lambda: None,
) -> App:
    """The application over one host, whose requests it tells of; `tally` is one that the host has as its observer.

    Where another application has it mounted, that one's life has `App.lifespan` in it.

    `keys` in place of those that the settings name; raises ManifestError where those cannot be read. With
    `from_manifest`, /health is well also while models still load. `reload` reads the manifest again, has the host
    and the application adopt it, and returns what waits for a restart; without it POST /api/reload is refused.
    """
    settings = settings or ServerSettings()
    if tally is None:
        tally = Tally()
        service.observe(tally)
    return App(
        service,
        settings,
        tally,
        gpus or GpuMonitor(settings.gpu_sample_s),
        reload=reload,
        keys=keys,
        from_manifest=from_manifest,
        fingerprint=fingerprint,
        on_start=on_start,
    )


def _both(path: str) -> tuple[str, str]:
    """With /v1 and, for clients whose base URL lacks it, without."""
    return (f"/v1{path}", path)
