"""A host of one model of nothing: made, asked, and looked at."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from llamahost.core.events import Delta, Event
from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Message, Text
from llamahost.core.observe import RequestRecord
from llamahost.core.sampling import SamplingOptions
from llamahost.engine.engine import EngineStats
from llamahost.fleet.settings.manifest import Manifest, ServerSettings
from llamahost.host import AsyncHost
from tests.fakes import FakeBackend
from tests.fleet.fakes import FakeLoader, spec_of
from tests.on_loop import turns


class Records(list[RequestRecord]):
    """An observer that keeps what it is told."""

    def finished(self, record: RequestRecord) -> None:
        self.append(record)

    @property
    def outcomes(self) -> list[str]:
        return [record.outcome for record in self]


@asynccontextmanager
async def host_of(
    backend: FakeBackend | None = None,
    *,
    records: Records | None = None,
    server: ServerSettings = ServerSettings(),  # noqa: B008 # it is frozen
    **options: Any,
) -> AsyncIterator[tuple[AsyncHost, FakeLoader]]:
    loader = FakeLoader(lambda: backend or FakeBackend())
    manifest = Manifest(models=(spec_of(**options),), server=server)
    async with AsyncHost(manifest, observer=records, load=loader) as host:
        yield host, loader
    assert loader.is_all_closed


def completion(*prompts: str, n: int = 1, max_tokens: int = 6, **more: Any) -> CompletionRequest:
    model = more.pop("model", "")
    generation = Generation(n=n, max_tokens=max_tokens, sampling=SamplingOptions(seed=0), **more)
    return CompletionRequest(prompts=prompts or ("abc",), model=model, generation=generation)


def chat(text: str = "hi", **more: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", parts=(Text(text),)),), generation=Generation(**more))


async def events_of(host: AsyncHost, request: ChatRequest | CompletionRequest) -> list[Event]:
    source = host.chat(request) if isinstance(request, ChatRequest) else host.complete(request)
    async with aclosing(source) as events:
        return [event async for event in events]


def text_of(events: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


def stats_of(host: AsyncHost) -> EngineStats:
    stats = host.models()[0].stats
    assert stats is not None
    return stats


async def at_rest(host: AsyncHost) -> None:
    while stats_of(host).n_running or stats_of(host).n_waiting:
        await turns()
