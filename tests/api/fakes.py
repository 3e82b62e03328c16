"""A host that answers what it is told to, keeps AsyncHost's laws, and remembers how its generators ended."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx
from llguidance import LLMatcher
from starlette.types import ASGIApp

from llamahost.api.app import App, create_app
from llamahost.core.errors import InvalidRequest, Unavailable
from llamahost.core.events import Delta, Event, Finished, Likely, Started, Timings, TokenLogprob, Usage
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.observe import FleetEvent, Observer
from llamahost.core.vectors import Embeddings, EmbedRequest, Ranking, RerankRequest
from llamahost.fleet.replica.card import ModelCard
from llamahost.fleet.request.preparer import Preparer
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import Health, ModelStatus
from llamahost.ops.tally import Tally
from llamahost.text.template import CHATML, Template
from tests.on_loop import LIMIT_S
from tests.text.vocabulary import ByteVocabulary

Request = ChatRequest | CompletionRequest
Step = Event | Exception | Callable[[], Awaitable[object]]

READY = ModelStatus(name="tiny", aliases=("small",), state="ready", progress=1.0, n_slots=4)


def said(*texts: str, index: int = 0, n_prompt: int = 5, n_cached: int = 2) -> list[Step]:
    """The events of one answer in these pieces."""
    usage = Usage(n_prompt=n_prompt, n_cached=n_cached, n_generated=len(texts))
    timings = Timings(queued_s=0.001, prompt_s=0.01, generation_s=0.02)
    return [
        Started(index, "tiny", n_prompt, n_cached),
        *(Delta(index, text, n_tokens=1) for text in texts),
        Finished(index, "stop", usage, timings),
    ]


def likely(text: str, logprob: float = -0.5) -> TokenLogprob:
    return TokenLogprob(
        7, text.encode(), logprob, (Likely(7, text.encode(), logprob), Likely(8, b"\xff", float("-inf")))
    )


@dataclass
class FakeHost:
    """`script` is run for every request: events are yielded, errors raised, callables awaited."""

    script: Iterable[Step] = field(default_factory=lambda: said("Hel", "lo"))
    statuses: tuple[ModelStatus, ...] = (READY,)
    known_routes: tuple[RouteSpec, ...] = ()
    is_stalled: bool = False
    is_draining: bool = False
    requests: list[Request] = field(default_factory=list)
    whole: list[EmbedRequest | RerankRequest] = field(default_factory=list)  # those that are answered at once
    adapters: list[tuple[object, ...]] = field(default_factory=list)  # what was asked of them
    changes: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)
    change_script: list[Step] = field(default_factory=list)  # of every load and unload
    observers: list[Observer] = field(default_factory=list)
    listeners: list[Callable[[FleetEvent], None]] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    n_open: int = 0
    n_cancelled: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)  # set when a request awaits something of its script
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # set when a generator has ended

    async def start(self) -> None:
        pass

    async def wait_ready(self) -> None:
        pass

    def drain(self) -> None:
        self.is_draining = True

    async def aclose(self, drain_s: float = 0.0) -> None:
        self.is_draining = True

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        return self._play(request)

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event, None]:
        return self._play(request)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Of each text: how long it is, and how many vectors there are."""
        self.whole.append(request)
        vectors = tuple(array("f", [float(len(each)), float(len(request.inputs))]) for each in request.inputs)
        return Embeddings(vectors=vectors, model="tiny", n_tokens=len(vectors))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """The longer the better."""
        self.whole.append(request)
        scores = tuple(float(len(document)) - 4.0 for document in request.documents)
        return Ranking(scores=scores, model="tiny", n_tokens=len(scores))

    async def _play(self, request: Request) -> AsyncGenerator[Event, None]:
        if self.is_draining:
            raise Unavailable("draining")
        self.requests.append(request)
        self.n_open += 1
        is_whole = False
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Event):
                    yield step
                else:
                    self.waiting.set()
                    await step()
            is_whole = True
        finally:
            self.n_open -= 1
            self.n_cancelled += not is_whole
            self.closed.set()

    async def load_adapter(self, name: str, path: str | Path, *, model: str = "", scale: float = 1.0) -> None:
        self.adapters.append((name, Path(path).name, model, scale))

    async def unload_adapter(self, name: str, *, model: str = "") -> None:
        self.adapters.append((name, model))

    async def scale_adapters(self, scales: Mapping[int | str, float], *, model: str = "") -> None:
        self.adapters.append((dict(scales), model))

    async def load(self, name: str, overrides: Mapping[str, object]) -> None:
        self.changes.append(("load", name, dict(overrides)))
        await self._changed()

    async def unload(self, name: str) -> None:
        self.changes.append(("unload", name, {}))
        await self._changed()

    async def _changed(self) -> None:
        for step in self.change_script:
            if isinstance(step, Exception):
                raise step
            assert callable(step)
            await step()

    def observe(self, observer: Observer) -> None:
        self.observers.append(observer)

    def listen(self, callback: Callable[[FleetEvent], None]) -> Callable[[], None]:
        self.listeners.append(callback)
        return lambda: self.listeners.remove(callback)

    def quarantine(self, pci_id: str, reason: str) -> None:
        self.quarantined.append((pci_id, reason))

    def models(self) -> tuple[ModelStatus, ...]:
        return self.statuses

    def routes(self) -> tuple[RouteSpec, ...]:
        return self.known_routes

    def health(self) -> Health:
        is_ready = any(status.state == "ready" for status in self.statuses)
        return Health(is_ready=is_ready, is_stalled=self.is_stalled, is_draining=self.is_draining, models=self.statuses)


@cache
def template_of(source: str) -> Template:
    """Once: what a template can say is found out by trying."""
    return Template(source, bos="<s>")


def compiles(grammar: str) -> None:
    """What a model's own compiler says of a grammar, whatever its vocabulary."""
    if complaint := LLMatcher.validate_grammar(grammar):
        raise InvalidRequest(complaint)


@dataclass
class PreparingHost(FakeHost):
    """Refuses what a real one would: every request is made ready for a model of a few words before it is answered."""

    template: str = CHATML
    vocabulary: ByteVocabulary = field(default_factory=ByteVocabulary)
    n_ctx: int = 64

    def _play(self, request: Request) -> AsyncGenerator[Event, None]:
        return self._prepare_and_play(request)

    async def _prepare_and_play(self, request: Request) -> AsyncGenerator[Event, None]:
        preparer = Preparer(
            model="tiny",
            n_ctx=self.n_ctx,
            vocabulary=self.vocabulary,
            template=template_of(self.template),
            compiles=compiles,
        )
        if isinstance(request, ChatRequest):
            preparer.chat(request)
        else:
            preparer.complete(request)
        async for event in super()._play(request):
            yield event


def app_of(host: FakeHost, tally: Tally | None = None, **settings: object) -> App:
    return create_app(host, ServerSettings(**settings), tally=tally)  # type: ignore[arg-type] # a test's shorthand


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client in this process; it sees a response only when it is whole."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def run(work: Callable[[], Awaitable[None]]) -> None:
    """A test's coroutine on a loop of its own; nothing may hang."""

    async def bounded() -> None:
        async with asyncio.timeout(LIMIT_S):
            await work()

    asyncio.run(bounded())


CARD = ModelCard(
    name="tiny",
    aliases=("small",),
    n_ctx=64,
    n_slots=4,
    layout="split",
    n_cells=256,
    description="a llama",
    n_params=1000,
    n_bytes=2000,
    architecture="llama",
    created=1,
    has_chat_template=True,
)
