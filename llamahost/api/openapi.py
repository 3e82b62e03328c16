"""/openapi.json, made of the very types that read the bodies; /docs, the same for eyes. Knows no request."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import msgspec
import orjson
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llamahost.api.adapters import AdapterAnswer, DoneAnswer, LoadAdapterBody, UnloadAdapterBody
from llamahost.api.admin_types import GpusInfo, LoadBody, ModelDetails, ModelsInfo, RequestsInfo, StatsInfo, UnloadBody
from llamahost.api.docs_page import render
from llamahost.api.embeddings import EmbeddingsAnswer, EmbeddingsBody
from llamahost.api.infill import InfillAnswer, InfillBody
from llamahost.api.openai_answers import (
    ChatAnswer,
    CompletionAnswer,
    ErrorAnswer,
    ModelAnswer,
    ModelsAnswer,
    ProbeAnswer,
)
from llamahost.api.openai_types import ChatBody, CompletionBody, LoraScale
from llamahost.api.openapi_limits import limit
from llamahost.api.pull import PullBody, PullComplaint, PullDone, PullLine
from llamahost.api.rerank import RerankAnswer, RerankBody
from llamahost.api.sse import send_json
from llamahost.api.web import Page

Json = dict[str, object]

OPEN_PATHS = frozenset({"/openapi.json", "/docs"})
"""Shown without a key: they tell nothing of this server but its version."""

_ERRORS = {
    400: "A mistake in the request; `param` names the field.",
    401: "No key, or a wrong one.",
    404: "No such model.",
    403: "Not over HTTP as this server is set up, or not for a page of somebody else's.",
    409: "A later request of the session has taken its place.",
    413: "The body is over the limit.",
    429: "The model's queue is full; see Retry-After.",
    500: "The server failed on this request.",
    502: "The hub, or this machine's disk, does not allow it.",
    503: "Nothing can answer now: loading, or shutting down.",
    504: "The request's `timeout` passed.",
}

_OF_ANSWERS = tuple(status for status in _ERRORS if status not in (403, 409, 502))
_WHOLE: Json = {"type": "integer", "minimum": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route as it is told of. `answer` None is plain text."""

    method: str
    path: str
    name: str
    summary: str
    body: object = None  # a type that msgspec knows
    needs_body: bool = True  # where it has one
    answer: object = None
    errors: tuple[int, ...] = ()
    query: tuple[str, ...] = ()
    is_open: bool = False
    is_streamed: bool = True  # where it has a body
    is_events: bool = False  # server-sent ones, and nothing else
    lines: type | None = None  # streamed as JSON, one a line, in place of events
    complaint: type | None = None  # the route's own form of an error, beside OpenAI's


OPERATIONS = (
    Operation(
        method="post",
        path="/v1/chat/completions",
        name="chat",
        summary="The next turn of a conversation; with `stream` as server-sent events. Also without /v1.",
        body=ChatBody,
        answer=ChatAnswer,
        errors=_OF_ANSWERS,
    ),
    Operation(
        method="post",
        path="/v1/completions",
        name="complete",
        summary="Prompts continued as they are; with `stream` as server-sent events. Also without /v1.",
        body=CompletionBody,
        answer=CompletionAnswer,
        errors=_OF_ANSWERS,
    ),
    Operation(
        method="post",
        path="/v1/embeddings",
        name="embed",
        summary="A vector for each input. Also without /v1.",
        body=EmbeddingsBody,
        answer=EmbeddingsAnswer,
        errors=_OF_ANSWERS,
        is_streamed=False,
    ),
    Operation(
        method="post",
        path="/v1/rerank",
        name="rerank",
        summary="Documents in the order in which they answer a query. Also without /v1, as /reranking, as /v2/rerank.",
        body=RerankBody,
        answer=RerankAnswer,
        errors=_OF_ANSWERS,
        is_streamed=False,
    ),
    Operation(
        method="post",
        path="/infill",
        name="infill",
        summary="What stands between a prefix and a suffix, as editors ask for it; as llama-server. Also with /v1.",
        body=InfillBody,
        answer=InfillAnswer,
        errors=(*_OF_ANSWERS, 409),
    ),
    Operation(
        method="get",
        path="/lora-adapters",
        name="list_adapters",
        summary="The LoRA adapters of a model, and how they work for requests that name none. Also with /v1.",
        answer=list[AdapterAnswer],
        errors=(400, 401, 503),
        query=("model",),
    ),
    Operation(
        method="post",
        path="/lora-adapters",
        name="scale_adapters",
        summary="How adapters work from now on for requests that name none: those left out do not. Also with /v1.",
        body=list[LoraScale],
        answer=DoneAnswer,
        errors=(400, 401, 404, 413, 503),
        query=("model",),
        is_streamed=False,
    ),
    Operation(
        method="post",
        path="/v1/load_lora_adapter",
        name="load_adapter",
        summary="Load a LoRA adapter, from a folder that the manifest's `adapter_folders` names. Also without /v1.",
        body=LoadAdapterBody,
        errors=(400, 401, 403, 404, 413, 503),
        is_streamed=False,
    ),
    Operation(
        method="post",
        path="/v1/unload_lora_adapter",
        name="unload_adapter",
        summary="Answer nobody new with an adapter; answers that are being made go on. Also without /v1.",
        body=UnloadAdapterBody,
        errors=(400, 401, 403, 404, 413, 503),
        is_streamed=False,
    ),
    Operation(
        method="get",
        path="/v1/models",
        name="list_models",
        summary="Every model, how it is, and the context that it can use. Also without /v1.",
        answer=ModelsAnswer,
        errors=(401, 503),
    ),
    Operation(
        method="get",
        path="/v1/models/{name}",
        name="show_model",
        summary="One model, by its name or an alias. Also without /v1.",
        answer=ModelAnswer,
        errors=(401, 404, 503),
    ),
    Operation(
        method="get",
        path="/api/models",
        name="list_known_models",
        summary="Every model that this server knows: its state and why, its load, its rates.",
        answer=ModelsInfo,
        errors=(401, 503),
    ),
    Operation(
        method="get",
        path="/api/models/{name}",
        name="show_known_model",
        summary="One of them, by its name or an alias, with what its file says.",
        answer=ModelDetails,
        errors=(401, 404, 503),
    ),
    Operation(
        method="post",
        path="/api/pull",
        name="pull",
        summary="Fetches a model from the hub, as Ollama's does: a line a step, or with `stream` false one answer.",
        body=PullBody,
        answer=PullDone,
        errors=(400, 401, 403, 404, 413, 429, 502, 503),
        lines=PullLine,
        complaint=PullComplaint,
    ),
    Operation(
        method="post",
        path="/api/models/{name}/load",
        name="load_model",
        summary="Load it, with other settings than the manifest's where any are given; 202 for `wait` false.",
        body=LoadBody,
        needs_body=False,
        answer=ModelDetails,
        errors=(400, 401, 403, 404, 413, 503),
        is_streamed=False,
    ),
    Operation(
        method="post",
        path="/api/models/{name}/unload",
        name="unload_model",
        summary="Take it out of memory when the requests that run have ended; 202 for `wait` false.",
        body=UnloadBody,
        needs_body=False,
        answer=ModelDetails,
        errors=(400, 401, 403, 404, 413, 503),
        is_streamed=False,
    ),
    Operation(
        method="post",
        path="/api/reload",
        name="reload",
        summary="Read the manifest again: only what changed is touched, and a wrong one changes nothing.",
        answer=ModelsInfo,
        errors=(400, 401, 403, 413, 503),
    ),
    Operation(
        method="get",
        path="/api/stats",
        name="stats",
        summary="What is done now, of all models together; measured, not estimated.",
        answer=StatsInfo,
        errors=(401, 503),
    ),
    Operation(
        method="get",
        path="/api/requests",
        name="list_requests",
        summary="The last requests, the newest first: counts and times, never what was said.",
        answer=RequestsInfo,
        query=("limit", "model"),
        errors=(400, 401, 503),
    ),
    Operation(
        method="get",
        path="/api/gpus",
        name="list_gpus",
        summary="NVIDIA's GPUs as the driver tells of them; `trouble` says why there are none.",
        answer=GpusInfo,
        errors=(401, 503),
    ),
    Operation(
        method="get",
        path="/api/events",
        name="events",
        summary="What happens, as server-sent events: `models` and `gpus` first, then `model`, `load`, `gpus`, "
        "`request`, `fault`, and `end` where the server ends them. `kinds` names those that are wanted, with commas "
        "between.",
        query=("kinds",),
        errors=(400, 401, 503),
        is_events=True,
    ),
    Operation(
        method="get",
        path="/health",
        name="health",
        summary="200 while something can answer, else 503.",
        answer=ProbeAnswer,
        is_open=True,
    ),
    Operation(
        method="get",
        path="/ready",
        name="ready",
        summary="Which models can answer; with `model` 200 or 503 for that one. Also as /readiness.",
        answer=ProbeAnswer,
        query=("model",),
        errors=(404,),
        is_open=True,
    ),
    Operation(
        method="get",
        path="/metrics",
        name="metrics",
        summary="Counts and times as Prometheus reads them.",
        errors=(401,),
    ),
)


def openapi_routes(base_path: str = "") -> list[Route]:
    """Both routes. What they show is made when first asked for: it takes 30 ms, which no start has to wait for."""
    return [
        Route("/openapi.json", Document(base_path), methods=["GET"]),
        Route("/docs", DocsPage(base_path), methods=["GET"]),
    ]


@dataclass(frozen=True, slots=True)
class Document:
    """GET /openapi.json."""

    base_path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, _document_of(self.base_path))


@dataclass(frozen=True, slots=True)
class DocsPage:
    """GET /docs."""

    base_path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _page_of(self.base_path)(scope, receive, send)


@functools.cache
def _document_of(base_path: str) -> bytes:
    return orjson.dumps(document(base_path))


@functools.cache
def _page_of(base_path: str) -> Page:
    return Page.of(render(document(base_path)))


def document(base_path: str = "") -> Json:
    """OpenAPI 3.1 of what is served."""
    types: list[object] = [ErrorAnswer]
    types += [
        kind
        for operation in OPERATIONS
        for kind in (operation.body, operation.answer, operation.lines, operation.complaint)
        if kind is not None
    ]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    limit(components)
    refs = dict(zip(types, schemas, strict=True))
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llamahost",
            "version": _version(),
            "description": "OpenAI's chat completions, completions and embeddings on GGUF models, and rerank, with "
            "llama.cpp's extra fields. A field that is null is absent; unknown fields are passed over.",
        },
        "servers": [{"url": base_path or "/"}],
        "security": [{"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Where a key is set."}},
        },
    }


def _operation(operation: Operation, refs: Mapping[object, dict[str, object]]) -> Json:
    told: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": dict(_responses(operation, refs)),
    }
    if operation.is_open:
        told["security"] = [{}]
    if operation.body is not None:
        told["requestBody"] = {"required": operation.needs_body, "content": _json_of(refs[operation.body])}
    text = {"type": "string"}
    parameters: list[Json] = [{"name": name, "in": "query", "schema": text} for name in operation.query]
    if "{name}" in operation.path:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": text})
    if parameters:
        told["parameters"] = parameters
    return told


def _responses(operation: Operation, refs: Mapping[object, dict[str, object]]) -> Iterator[tuple[str, Json]]:
    plain: Json = {"text/plain": {"schema": {"type": "string"}}}
    content = plain if operation.answer is None else _json_of(refs[operation.answer])
    if operation.is_events:
        content = {"text/event-stream": {}}
    if operation.lines is not None:
        content = {**content, "application/x-ndjson": {"schema": refs[operation.lines]}}
    elif operation.body is not None and operation.is_streamed:
        content = {**content, "text/event-stream": {}}  # events have no schema that all readers agree on
    yield "200", {"description": "The answer.", "content": content}
    if operation.body is not None and not operation.needs_body:
        yield "202", {"description": "It is begun, and not waited for.", "content": content}
    if operation.is_open:
        yield "503", {"description": "Nothing can answer now.", "content": content}
    wrong = refs[ErrorAnswer]
    if operation.complaint is not None:
        wrong = {"anyOf": [refs[operation.complaint], wrong]}
    for status in operation.errors:
        told: Json = {"description": _ERRORS[status], "content": _json_of(wrong)}
        if status in (429, 503):
            told["headers"] = {"Retry-After": {"required": True, "description": "Seconds.", "schema": _WHOLE}}
        yield str(status), told
    yield "default", {"description": "Any other error.", "content": _json_of(wrong)}


def _json_of(schema: dict[str, object]) -> Json:
    return {"application/json": {"schema": schema}}


def _version() -> str:
    try:
        return version("llamahost")
    except PackageNotFoundError:  # from a folder that was not installed
        return "0"
