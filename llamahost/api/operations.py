"""Every route as it is told of: what it takes and answers, and how it refuses. A table; knows no request."""

from __future__ import annotations

from dataclasses import dataclass

from llamahost.api.adapters import AdapterAnswer, DoneAnswer, LoadAdapterBody, UnloadAdapterBody
from llamahost.api.admin_types import (
    GpusInfo,
    LoadBody,
    ModelDetails,
    ModelsInfo,
    ReloadInfo,
    RequestsInfo,
    StatsInfo,
    UnloadBody,
)
from llamahost.api.embeddings import EmbeddingsAnswer, EmbeddingsBody
from llamahost.api.infill import InfillAnswer, InfillBody
from llamahost.api.openai_answers import ChatAnswer, CompletionAnswer, ModelAnswer, ModelsAnswer, ProbeAnswer
from llamahost.api.openai_types import ChatBody, CompletionBody, LoraScale
from llamahost.api.pull import PullBody, PullComplaint, PullDone, PullLine
from llamahost.api.rerank import RerankAnswer, RerankBody

ERRORS = {
    400: "A mistake in the request; `param` names the field.",
    401: "No key, or a wrong one.",
    404: "No such model.",
    403: "Not over HTTP as this server is set up, or not for a page of somebody else's.",
    408: "The body did not come whole; see `stall_s` of the manifest.",
    409: "A later request of the session has taken its place.",
    413: "The body is over the limit.",
    429: "The model's queue is full; see Retry-After.",
    500: "The server failed on this request.",
    502: "The hub, or this machine's disk, does not allow it.",
    503: "Nothing can answer now: loading, or shutting down.",
    504: "The request's `timeout` passed.",
}

HEADERS = {
    "X-Session-Id": "The conversation, which stays on its replica; before the body's `session_id`, `prompt_cache_key`. "
    "Those of other pages and agents count as well.",
    "X-User-Id": "Who asks, where no conversation is named; before the body's `user`.",
    "X-Priority": "interactive, batch, or a number: the lower, the sooner.",
    "X-When-Loading": "wait or refuse, where the model is not loaded yet.",
}
"""Of requests that models answer."""

TOLD = {
    "x-llamahost-model": "Who answers; of an error, who failed last, where somebody was there to fail.",
    "x-llamahost-replica": "The model's replica, as /api/models names it.",
    "x-llamahost-tries": "After how many tries.",
}
"""Of what they answer."""

_OF_ANSWERS = tuple(status for status in ERRORS if status not in (403, 409, 502))


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
    headers: tuple[str, ...] = ()  # of those in HEADERS, where a model answers
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
        headers=tuple(HEADERS),
        errors=_OF_ANSWERS,
    ),
    Operation(
        method="post",
        path="/v1/completions",
        name="complete",
        summary="Prompts continued as they are; with `stream` as server-sent events. Also without /v1.",
        body=CompletionBody,
        answer=CompletionAnswer,
        headers=tuple(HEADERS),
        errors=_OF_ANSWERS,
    ),
    Operation(
        method="post",
        path="/v1/embeddings",
        name="embed",
        summary="A vector for each input. Also without /v1.",
        body=EmbeddingsBody,
        answer=EmbeddingsAnswer,
        headers=tuple(HEADERS),
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
        headers=tuple(HEADERS),
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
        headers=tuple(HEADERS),
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
        errors=(400, 401, 403, 404, 408, 413, 503),
        query=("model",),
        is_streamed=False,
    ),
    Operation(
        method="post",
        path="/v1/load_lora_adapter",
        name="load_adapter",
        summary="Load a LoRA adapter, from a folder that the manifest's `adapter_folders` names. Also without /v1.",
        body=LoadAdapterBody,
        errors=(400, 401, 403, 404, 408, 413, 503),
        is_streamed=False,
    ),
    Operation(
        method="post",
        path="/v1/unload_lora_adapter",
        name="unload_adapter",
        summary="Answer nobody new with an adapter; answers that are being made go on. Also without /v1.",
        body=UnloadAdapterBody,
        errors=(400, 401, 403, 404, 408, 413, 503),
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
        errors=(400, 401, 403, 404, 408, 413, 429, 502, 503),
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
        errors=(400, 401, 403, 404, 408, 413, 503),
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
        errors=(400, 401, 403, 404, 408, 413, 503),
        is_streamed=False,
    ),
    Operation(
        method="post",
        path="/api/reload",
        name="reload",
        summary="Read the manifest again: only what changed is touched, and a wrong one changes nothing.",
        answer=ReloadInfo,
        errors=(400, 401, 403, 408, 413, 503),
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
        summary="The last requests, the newest first, of one model or route where `model` names it: counts and times, "
        "never what was said.",
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
        summary="Which models can answer; with `model` 200 or 503 for that one, or for a route. Also as /readiness.",
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
