"""A path that is not served: whose it is, and what to use here in its place. Knows paths only."""

from __future__ import annotations

import difflib

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

CHAT = "POST /v1/chat/completions"
COMPLETIONS = "POST /v1/completions"
EMBEDDINGS = "POST /v1/embeddings"
MODELS = "GET /v1/models"

NEIGHBOURS: dict[str, tuple[str, str]] = {
    "/api/chat": ("Ollama", CHAT),
    "/api/generate": ("Ollama", COMPLETIONS),
    "/api/tags": ("Ollama", MODELS),
    "/api/ps": ("Ollama", MODELS),
    "/api/show": ("Ollama", f"{MODELS}/{{name}}"),
    "/api/version": ("Ollama", "GET /health"),
    "/api/embed": ("Ollama", EMBEDDINGS),
    "/api/embeddings": ("Ollama", EMBEDDINGS),
    "/completion": ("llama-server", COMPLETIONS),
    "/tokenize": ("llama-server", ""),
    "/detokenize": ("llama-server", ""),
    "/apply-template": ("llama-server", ""),
    "/embedding": ("llama-server", EMBEDDINGS),
    "/props": ("llama-server", MODELS),
    "/slots": ("llama-server", "GET /metrics"),
    "/responses": ("OpenAI", CHAT),
    "/messages": ("Anthropic", CHAT),
    "/messages/count_tokens": ("Anthropic", ""),
    "/complete": ("Anthropic", COMPLETIONS),
    "/generate": ("Text Generation Inference", COMPLETIONS),
    "/generate_stream": ("Text Generation Inference", COMPLETIONS),
    "/version": ("vLLM", "GET /health"),
    "/ping": ("vLLM", "GET /health"),
    "/score": ("vLLM", "POST /v1/rerank"),
    "/pooling": ("vLLM", EMBEDDINGS),
    "/model/info": ("LiteLLM", MODELS),
    "/health/liveliness": ("LiteLLM", "GET /health"),
    "/health/readiness": ("LiteLLM", "GET /ready"),
    "/api/v0": ("LM Studio", MODELS),
    "/audio": ("OpenAI", ""),
    "/images": ("OpenAI", ""),
    "/files": ("OpenAI", ""),
    "/batches": ("OpenAI", ""),
    "/moderations": ("OpenAI", ""),
    "/assistants": ("OpenAI", CHAT),
    "/threads": ("OpenAI", CHAT),
    "/fine_tuning": ("OpenAI", ""),
    "/vector_stores": ("OpenAI", ""),
    "/realtime": ("OpenAI", ""),
}
"""By path without /v1: whose, and what does here what it does there; empty where nothing does."""

OF_OPENAI = ("/chat/completions", "/completions", "/embeddings", "/rerank", "/models")
OF_ADMIN = ("/api/models", "/api/stats", "/api/gpus", "/api/requests", "/api/events", "/api/reload", "/api/pull")
OF_OTHERS = ("/infill", "/lora-adapters", "/load_lora_adapter", "/unload_lora_adapter")
SERVED = (*OF_OPENAI, *OF_ADMIN, *OF_OTHERS, "/health", "/ready", "/metrics", "/openapi.json", "/docs")
"""What there is; those of OpenAI also under /v1."""


async def no_route(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to every path without a route. Raises HTTPException."""
    if scope["type"] != "http":
        return  # a websocket is closed by the server when nobody accepts it
    raise HTTPException(404, f"there is no {scope['path']!r:.200} here; {advice(scope['path'])}")


def advice(path: str) -> str:
    """What whoever asked for this path should do."""
    path = path[:200]
    bare = path
    while bare.startswith("/v1/"):
        bare = bare.removeprefix("/v1")
    bare = bare.rstrip("/")
    if path.startswith("/v1") and bare in ("", "/v1"):
        return "it is where OpenAI's API begins, as clients' base_url: GET /v1/models tells what it serves"
    if bare in SERVED:
        return f"use {_spelled(bare)}"
    steps = bare.split("/")
    known = next((each for each in (bare, "/".join(steps[:3]), "/".join(steps[:2])) if each in NEIGHBOURS), "")
    if known:
        owner, instead = NEIGHBOURS[known]
        if instead:
            return f"it belongs to {owner}'s API, which this version does not speak: use {instead}"
        return f"it belongs to {owner}'s API, and this version has nothing in its place"
    if end := max((each for each in OF_OPENAI if bare.endswith(each)), key=len, default=""):
        return f"use {_spelled(end)}: a client's base_url ends in /v1"
    begun = [each for each in OF_OPENAI if bare and each.startswith(f"{bare}/")]
    nearest = begun or difflib.get_close_matches(bare, SERVED, n=1, cutoff=0.7)
    if nearest:
        return f"did you mean {_spelled(nearest[0])}?"
    if bare.startswith("/api/"):
        return f"Ollama's API is not spoken by this version: use {CHAT}"
    return "OpenAI's API is under /v1, and /docs tells what there is"


def _spelled(served: str) -> str:
    return f"/v1{served}" if served in OF_OPENAI else served
