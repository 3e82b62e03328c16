"""A path of somebody else's API gets a 404 that says what to use."""

from __future__ import annotations

import pytest

from llamahost.api.elsewhere import NEIGHBOURS, advice
from tests.api.fakes import FakeHost, app_of, client_of, run

TOLD = [
    ("/api/chat", "Ollama", "/v1/chat/completions"),
    ("/api/generate", "Ollama", "/v1/completions"),
    ("/api/tags", "Ollama", "/v1/models"),
    ("/api/copy", "Ollama", "/v1/chat/completions"),
    ("/completion", "llama-server", "/v1/completions"),
    ("/tokenize", "llama-server", "nothing in its place"),
    ("/slots/0", "llama-server", "/metrics"),
    ("/v1/messages", "Anthropic", "/v1/chat/completions"),
    ("/v1/messages/count_tokens", "Anthropic", "nothing in its place"),
    ("/v1/responses", "OpenAI", "/v1/chat/completions"),
    ("/v1/responses/resp_1", "OpenAI", "/v1/chat/completions"),
    ("/api/embed", "Ollama", "POST /v1/embeddings"),
    ("/v1/audio/speech", "OpenAI", "nothing in its place"),
    ("/api/v0/models/x", "LM Studio", "GET /v1/models"),
    ("/v1/score", "vLLM", "POST /v1/rerank"),
    ("/health/liveliness", "LiteLLM", "GET /health"),
    ("/v1/v1/chat/completions", "", "use /v1/chat/completions"),
    ("/v1/chat/completions/chat/completions", "", "use /v1/chat/completions: a client's base_url ends in /v1"),
    ("/openai/deployments/x/completions", "", "use /v1/completions: a client's"),
    ("/v1beta/models", "", "use /v1/models: a client's"),
    ("/v1/chat", "", "did you mean /v1/chat/completions?"),
    ("/v1/completions/", "", "use /v1/completions"),
    ("/v1/health", "", "use /health"),
    ("/v1/chat/completion", "", "did you mean /v1/chat/completions?"),
    ("/", "", "OpenAI's API is under /v1"),
    ("/v1", "", "clients' base_url"),
    ("//", "", "OpenAI's API is under /v1"),
    ("/" + "x" * 10_000, "", "OpenAI's API is under /v1"),
]


@pytest.mark.parametrize(("path", "owner", "instead"), TOLD, ids=[path[:40] for path, _, _ in TOLD])
def test_advice_names_the_owner_and_what_to_use(path: str, owner: str, instead: str) -> None:
    told = advice(path)
    assert owner in told
    assert instead in told


@pytest.mark.parametrize("path", sorted(NEIGHBOURS))
def test_the_paths_of_neighbours_are_404_with_the_advice(path: str) -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            for way in (path, f"/v1{path}"):
                for response in (await client.post(way, json={}), await client.get(way)):
                    assert response.status_code == 404
                    error = response.json()["error"]
                    assert error["type"] == "not_found_error"
                    assert NEIGHBOURS[path][0] in error["message"]

    run(law)
