"""What the HTTP floor asks of the library: words in, events out, and how its models are. `AsyncHost` keeps it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from llamahost.core.errors import ModelNotFound
from llamahost.core.events import Event
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.observe import FleetEvent, Observer
from llamahost.core.vectors import Embeddings, EmbedRequest, Ranking, RerankRequest
from llamahost.fleet.routing.names import Names
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import Health, ModelStatus


class Service(Protocol):
    """The part of AsyncHost that is served, with its laws; tests keep them with a small fake."""

    async def start(self) -> None: ...

    async def wait_ready(self) -> None: ...

    def drain(self) -> None: ...

    async def aclose(self, drain_s: float = 0.0) -> None: ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event, None]: ...

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event, None]: ...

    async def embed(self, request: EmbedRequest) -> Embeddings: ...

    async def rerank(self, request: RerankRequest) -> Ranking: ...

    async def load_adapter(self, name: str, path: str | Path, *, model: str = "", scale: float = 1.0) -> None: ...

    async def unload_adapter(self, name: str, *, model: str = "") -> None: ...

    async def scale_adapters(self, scales: Mapping[int | str, float], *, model: str = "") -> None: ...

    async def load(self, name: str, overrides: Mapping[str, object]) -> None: ...

    async def unload(self, name: str) -> None: ...

    def observe(self, observer: Observer) -> None: ...

    def listen(self, callback: Callable[[FleetEvent], None]) -> Callable[[], None]: ...

    def quarantine(self, pci_id: str, reason: str) -> None: ...

    def models(self) -> tuple[ModelStatus, ...]: ...

    def routes(self) -> tuple[RouteSpec, ...]: ...

    def health(self) -> Health: ...


def model_named(models: Sequence[ModelStatus], name: str, routes: Sequence[RouteSpec] = ()) -> ModelStatus:
    """The one that a request of this name would be answered by. Raises ModelNotFound, with the nearest."""
    found = models_named(models, name, routes)
    if any(route.name == found.name for route in routes):
        told = ", ".join(f"`{model.name}`" for model in found.models)
        raise ModelNotFound(name, reason=f"`{name}` is a route; its models are {told}")
    return found.models[0]


class Named(NamedTuple):
    """What a name means, and who may answer to it: itself, or the models of a route in their order."""

    name: str
    models: tuple[ModelStatus, ...]


def models_named(models: Sequence[ModelStatus], name: str, routes: Sequence[RouteSpec]) -> Named:
    """Raises ModelNotFound, with the nearest."""
    names = names_of(models, routes)
    found = names.find(name)
    if found is None:
        raise ModelNotFound(name, nearest=names.nearest(name), known=names.named)
    wanted = next((route.models for route in routes if route.name == found), (found,))
    by_name = {model.name: model for model in models}
    return Named(found, tuple(by_name[each] for each in wanted if each in by_name))


def names_of(models: Sequence[ModelStatus], routes: Sequence[RouteSpec]) -> Names:
    """As requests may say them."""
    named: tuple[ModelStatus | RouteSpec, ...] = (*models, *routes)
    return _names(tuple([(known, each.name) for each in named for known in (each.name, *each.aliases)]))


@lru_cache(1)
def _names(pairs: tuple[tuple[str, str], ...]) -> Names:
    """Made where they changed: that takes 10 us a name."""
    return Names(pairs)
