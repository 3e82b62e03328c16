"""OpenAI's routes: chat completions, completions, models. Bytes to words, events to bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from llamahost.api.affinity import with_headers
from llamahost.api.body import Reading, decode_body, read_body
from llamahost.api.openai_encode import BodyEncoder, ChunkEncoder, Frame, Json, Probs
from llamahost.api.openai_parse import parse_chat, parse_completion
from llamahost.api.openai_types import CHAT, COMPLETION, ChatBody, CompletionBody
from llamahost.api.pieces import InPieces
from llamahost.api.service import Service, names_of
from llamahost.api.slices import listed, send_slices
from llamahost.api.sse import EventStream, fold, send_json
from llamahost.api.trace import trace_of
from llamahost.core.errors import ModelNotFound
from llamahost.core.events import Event
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.fleet.replica.adapters import AdapterStatus
from llamahost.fleet.replica.card import ModelCard
from llamahost.fleet.routing.names import folded
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import ModelStatus

B = TypeVar("B", ChatBody, CompletionBody)
R = TypeVar("R", ChatRequest, CompletionRequest)


@dataclass(frozen=True, slots=True)
class Manner:
    """How an answer is to be told: what is kept of a body, which may be large, while it is answered."""

    is_streamed: bool
    includes_usage: bool
    is_of_functions: bool
    has_logprobs: bool
    probs: Probs | None
    n_kept: int

    @staticmethod
    def of(body: ChatBody | CompletionBody) -> Manner:
        return Manner(
            is_streamed=bool(body.stream),
            includes_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
            is_of_functions=isinstance(body, ChatBody) and body.is_of_functions,
            has_logprobs=body.has_logprobs or body.has_probs,
            probs=None if not body.has_probs else "prob" if body.post_sampling_probs else "logprob",
            n_kept=body.n_kept,
        )


@dataclass(frozen=True, slots=True)
class Generate(Generic[B, R]):
    """One generating route: how its body is read, what it means, and who answers it."""

    kind: Literal["chat", "completion"]
    decoder: InPieces[B]
    parse: Callable[[B], R]
    answer: Callable[[R], AsyncGenerator[Event, None]]
    settings: ServerSettings
    fingerprint: str
    reading: Reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = trace_of(scope)
        request, manner = await self._read(scope, receive)
        request = with_headers(request, scope)
        trace.model = request.model
        frame = Frame.new(
            self.kind,
            request.model,
            n=request.generation.n,
            fingerprint=self.fingerprint,
            include_usage=manner.includes_usage,
            is_of_functions=manner.is_of_functions,
            probs=manner.probs,
        )
        events = self.answer(request)
        del request  # its text goes as soon as it is prepared
        if manner.is_streamed:
            stream = EventStream(
                events,
                ChunkEncoder(frame),
                note=trace.note,
                ping_s=self.settings.ping_s,
                stall_s=self.settings.stall_s,
            )
            await stream(receive, send)
            return
        whole = BodyEncoder(frame, has_logprobs=manner.has_logprobs, n_kept=manner.n_kept)
        await fold(receive, events, trace.note, whole.feed)
        await send_json(send, whole.body())

    async def _read(self, scope: Scope, receive: Receive) -> tuple[R, Manner]:
        data = await read_body(scope, receive, self.settings.max_body_bytes, self.settings.stall_s)
        return await self.reading.run(lambda: self._understood(data), len(data))

    def _understood(self, data: bytes) -> tuple[R, Manner]:
        body = decode_body(data, self.decoder)
        return self.parse(body), Manner.of(body)


def chat_route(service: Service, settings: ServerSettings, fingerprint: str, reading: Reading) -> ASGIApp:
    return Generate("chat", CHAT, parse_chat, service.chat, settings, fingerprint, reading)


def completion_route(service: Service, settings: ServerSettings, fingerprint: str, reading: Reading) -> ASGIApp:
    return Generate("completion", COMPLETION, parse_completion, service.complete, settings, fingerprint, reading)


@dataclass(frozen=True, slots=True)
class ListModels:
    """GET /v1/models, and one of them by its name, which may hold slashes."""

    service: Service
    created: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        models = self.service.models()
        wanted = scope.get("path_params", {}).get("name")
        if wanted is None:
            items = map(orjson.dumps, self._all(models, self.service.routes()))
            await send_slices(send, listed(b'{"object":"list","data":[', items), b"application/json")
            return
        for model in [each for each in models if each.adapters]:
            known = {folded(f"{name}:") for name in (model.name, *model.aliases)}
            for adapter in model.adapters:
                if any(folded(wanted) == name + folded(adapter.spec.name) for name in known):
                    await send_json(send, orjson.dumps(self._adapter_json(model, adapter)))
                    return
        routes = self.service.routes()
        names = names_of(models, routes)
        found = names.find(wanted)
        for route in routes:
            if found == route.name:
                await send_json(send, orjson.dumps(self._route_json(route, models)))
                return
        for model in models:
            if found == model.name:
                await send_json(send, orjson.dumps(self._json(model)))
                return
        raise ModelNotFound(wanted, nearest=names.nearest(wanted), known=names.named)

    def _all(self, models: Sequence[ModelStatus], routes: Sequence[RouteSpec]) -> Iterator[Json]:
        """Of one moment: a reload between two slices may bring routes to models that are not among these."""
        yield from map(self._json, models)
        for model in models:
            for adapter in model.adapters:
                yield self._adapter_json(model, adapter)
        for route in routes:
            yield self._route_json(route, models)

    def _route_json(self, route: RouteSpec, models: Sequence[ModelStatus]) -> Json:
        """As the first of its models that is ready, or as the first."""
        of = [model for name in route.models for model in models if model.name == name]
        whole = self._json(next((model for model in of if model.state == "ready"), of[0]))
        return {
            **whole,
            "id": route.name,
            "aliases": list(route.aliases),
            "models": list(route.models),
            "strategy": route.strategy,
        }

    def _adapter_json(self, model: ModelStatus, adapter: AdapterStatus) -> Json:
        """As vLLM lists one: a model of its own, with what it changes."""
        whole = self._json(model)
        own: Json = {
            "id": f"{model.name}:{adapter.spec.name}",
            "parent": model.name,
            "root": adapter.spec.path.name,
            "aliases": [],
        }
        if model.card is not None:  # embeddings are the model's own
            own["capabilities"] = [each for each in capabilities(model.card) if each != "embedding"]
        return {**whole, **own}

    def _json(self, model: ModelStatus) -> Json:
        """OpenAI's four fields; then the usable context under the names that clients look for, and llama-server's."""
        card = model.card
        why: Json = {"reason": model.reason} if model.reason else {"progress": round(model.progress, 3)}
        by: Json = {"load": model.load} if model.state == "unloaded" else {}
        body: Json = {
            "id": model.name,
            "object": "model",
            "created": self.created if card is None else card.created,
            "owned_by": "llamahost",
            "aliases": list(model.aliases),
            "status": {"value": model.state, **why, **by},
        }
        if card is None and model.task:
            body["capabilities"] = OF_TASK[model.task]
        if card is not None:
            body["context_length"] = body["max_model_len"] = card.n_ctx
            body["capabilities"] = capabilities(card)
            body["chat_template_caps"] = dict(card.template_caps)
            body["meta"] = {
                "n_ctx": card.n_ctx,
                "n_ctx_train": card.n_ctx_train,
                "n_slots": card.n_slots,
                "n_vocab": card.n_vocab,
                "n_embd": card.n_embd,
                **({"pooling": card.pooling, "n_dim": card.n_dim} if card.pooling is not None else {}),
                "n_params": card.n_params,
                "size": card.n_bytes,
                "architecture": card.architecture,
                "description": card.description,
            }
        return body


OF_TASK = {
    "chat": ["completion", "chat"],
    "completion": ["completion"],
    "embedding": ["embedding"],
    "rerank": ["rerank"],
}
"""Of a model that is not loaded, as far as its file tells."""


def capabilities(card: ModelCard) -> list[str]:
    """What the model can be asked for."""
    can = ["completion"] if card.generates else []
    if card.has_chat_template:
        can.append("chat")
    if card.fills_in:
        can.append("infill")
    if card.pooling is not None:
        can.append("rerank" if card.pooling == "rank" else "embedding")
    return can
