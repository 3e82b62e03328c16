"""What the HTTP floor asks of the library: words in, events out, and how its models are. `AsyncHost` keeps it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from llamahost.core.events import Event
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.host import Health, ModelStatus


class Service(Protocol):
    """The part of AsyncHost that is served, with its laws; tests keep them with a small fake."""

    async def start(self) -> None: ...

    async def wait_ready(self) -> None: ...

    def drain(self) -> None: ...

    async def aclose(self, drain_s: float = 0.0) -> None: ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event, None]: ...

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event, None]: ...

    def models(self) -> tuple[ModelStatus, ...]: ...

    def health(self) -> Health: ...
