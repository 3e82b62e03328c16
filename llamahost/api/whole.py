"""Routes that answer all at once: embeddings and rerank. Knows how a request goes through; knows no field of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.types import Receive, Scope, Send

from llamahost.api.affinity import with_priority
from llamahost.api.body import Reading, decode_body, read_body
from llamahost.api.pieces import InPieces
from llamahost.api.sse import send_json, while_connected
from llamahost.api.trace import trace_of
from llamahost.core.vectors import Embeddings, EmbedRequest, Ranking, RerankRequest
from llamahost.fleet.settings.manifest import ServerSettings

Body = TypeVar("Body")
Request = TypeVar("Request", EmbedRequest, RerankRequest)
Found = TypeVar("Found", Embeddings, Ranking)


@dataclass(frozen=True, slots=True)
class Whole(Generic[Body, Request, Found]):
    """One ASGI callable. `n_numbers` of what was found are written by `encode`, beside the loop where they are many."""

    decoder: InPieces[Body]
    parse: Callable[[Body], Request]
    answer: Callable[[Request], Coroutine[Any, Any, Found]]
    encode: Callable[[Body, Request, Found], bytes]
    n_numbers: Callable[[Found], int]
    settings: ServerSettings
    reading: Reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = trace_of(scope)
        data = await read_body(scope, receive, self.settings.max_body_bytes, self.settings.stall_s)
        body, request = await self.reading.run(lambda: self._understood(data), len(data))
        request = with_priority(request, scope)
        trace.model = request.model
        found = await while_connected(receive, self.answer(request))
        trace.answered_by(found.model, found.replica, found.n_tries)
        trace.n_prompt = found.n_tokens
        n_bytes = max(len(data), 4 * self.n_numbers(found))
        await send_json(send, await self.reading.run(lambda: self.encode(body, request, found), n_bytes))

    def _understood(self, data: bytes) -> tuple[Body, Request]:
        body = decode_body(data, self.decoder)
        return body, self.parse(body)
