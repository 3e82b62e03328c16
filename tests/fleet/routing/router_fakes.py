"""A fleet as a router sees it, and what is asked of it."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from llamahost.core.errors import LlamahostError, Overloaded
from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Message, Text
from llamahost.fleet.replica.replica import Replica
from llamahost.fleet.routing.policy import ANYTHING, ReplicaView, Wants
from llamahost.fleet.routing.router import Kind, Router, Tries
from llamahost.fleet.settings.manifest import Manifest, ServerSettings
from llamahost.fleet.settings.route_spec import RouteSpec, Strategy
from tests.fleet.fakes import spec_of


@dataclass
class Status:
    name: str
    is_ready: bool = True
    n_slots: int = 4
    n_in_flight: int = 0
    task: str = "auto"
    known: Any = None
    is_coming: bool = False
    replicas: tuple[ReplicaView, ...] = ()

    def n_may_wait(self, waits: bool | None) -> int:
        return 9 * (waits is not False and (self.is_coming or not self.is_ready))

    def views(self) -> tuple[ReplicaView, ...]:
        return self.replicas

    @property
    def n_room(self) -> int:
        return 9 - self.n_in_flight


@dataclass
class FakeFleet:
    """Models with replicas that are asked by `pick`, as a fleet does; `refusals` are raised before anybody is."""

    n_replicas: dict[str, int]
    refusals: dict[str, LlamahostError] = field(default_factory=dict)
    n_room: dict[str, int] = field(default_factory=dict)  # by replica, where it is not 9
    cards: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    loading: set[str] = field(default_factory=set)
    unloaded: set[str] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)  # replicas
    in_flight: dict[str, int] = field(default_factory=dict)
    is_draining: bool = False
    leased: list[str] = field(default_factory=list)
    wants: Wants = ANYTHING

    @asynccontextmanager
    async def lease(self, name: str, n_jobs: int = 1, *, wants: Wants = ANYTHING) -> AsyncIterator[Replica]:
        self.wants = wants
        if name in self.refusals:
            raise self.refusals[name]
        views = self.views(name)
        index = wants.pick(views)
        if index is None:
            raise Overloaded(f"{name} is full", retry_after_s=1.0)
        self.leased.append(views[index].id)
        yield cast("Replica", SimpleNamespace(id=views[index].id))

    def views(self, name: str) -> tuple[ReplicaView, ...]:
        ids = [f"{name}#{k}" for k in range(self.n_replicas[name])]
        return tuple(
            ReplicaView(
                self.in_flight.get(id_, 0), self.n_room.get(id_, 9), id=id_, n_slots=4, is_stalled=id_ in self.stalled
            )
            for id_ in ids
        )

    def seen(self) -> list[Status]:
        return [self._status(name) for name in self.n_replicas]

    def seen_of(self, names: Iterable[str]) -> list[Status]:
        return [self._status(name) for name in names if name in self.n_replicas]

    def _status(self, name: str) -> Status:
        return Status(
            name,
            name not in self.loading | self.unloaded,
            n_in_flight=self.in_flight.get(name, 0),
            task=self.tasks.get(name, "auto"),
            known=self.cards.get(name),
            is_coming=name in self.loading,
            replicas=self.views(name),
        )


def router_of(fleet: FakeFleet, *routes: RouteSpec, draw: Callable[[], float] = lambda: 0.0, **settings: Any) -> Router:
    specs = tuple(spec_of(name) for name in fleet.n_replicas)
    manifest = Manifest(models=specs, routes=routes, server=ServerSettings(**settings))
    return Router(fleet, manifest, is_strict=True, draw=draw)


def request(model: str = "m", text: str = "hello", timeout_s: float | None = None, **more: Any) -> ChatRequest:
    messages = (Message(role="user", parts=(Text(text),)),)
    return ChatRequest(messages=messages, model=model, generation=Generation(timeout_s=timeout_s, **more))


def route(*models: str, strategy: Strategy = "fallback") -> RouteSpec:
    return RouteSpec(name="r", models=models, strategy=strategy)


async def answered(
    router: Router,
    asked: ChatRequest | CompletionRequest,
    *failures: Exception | None,
    begins: bool = False,
    kind: Kind = "chat",
) -> Tries:
    """One request, whose k-th lease ends with `failures[k]`, after its first token where it `begins`."""
    tries = router.tries(asked, kind, 1)
    k = 0
    while True:
        async with tries:
            tries.has_begun = begins
            failure = failures[k] if k < len(failures) else None
            k += 1
            if failure is not None:
                raise failure
            return tries
