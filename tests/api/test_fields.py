"""The table of every field that clients send to chat and completions: served, passed over by design, or refused."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from llamahost.api.openai_types import ChatBody, CompletionBody
from llamahost.core.messages import CompletionRequest
from tests.api.fakes import PreparingHost, app_of, client_of, run

SERVED: dict[str, Any] = {
    "model": "tiny",
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 2,
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "n_predict": -1,
    "stop": ["a"],
    "temperature": 0.5,
    "top_p": 0.9,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "logit_bias": [[5, -1.0], ["6", False]],
    "seed": 1,
    "top_k": 10,
    "min_p": 0.1,
    "typical_p": 0.9,
    "top_n_sigma": 1.0,
    "dynatemp_range": 0.1,
    "dynatemp_exponent": 1.0,
    "xtc_probability": 0.1,
    "xtc_threshold": 0.2,
    "mirostat": 2,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "dry_multiplier": 0.5,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": -1,
    "dry_sequence_breakers": ["\n"],
    "repeat_last_n": 64,
    "repeat_penalty": 1.1,
    "min_keep": 1,
    "samplers": ["top_k", "temperature"],
    "ignore_eos": True,
    "n_probs": 3,
    "post_sampling_probs": True,
    "t_max_predict_ms": 100,
    "n_indent": 2,
    "timings_per_token": True,
    "return_progress": True,
    "timeout": 10.0,
    "user": "me",
    "safety_identifier": "me",
    "prompt_cache_key": "chat",
    "session_id": "chat",
    "priority": "batch",
    "service_tier": "flex",
    "response_format": {"type": "json_object"},
    "grammar": 'root ::= "yes" | "no"',
    "json_schema": {"type": "array", "items": {"type": "integer"}},
    "guided_json": '{"type": "boolean"}',
    "guided_regex": "[a-z]+",
    "guided_choice": ["yes", "no"],
    "guided_grammar": 'start: "a" | "b"',
    "structured_outputs": {"json": {"type": "object"}},
}
SERVED_CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "ada"}],
    "logprobs": True,
    "chat_template_kwargs": {"a": 1},
    "reasoning_effort": "low",
    "reasoning_budget_tokens": 50,
    "thinking_budget_tokens": 0,
    "thinking_budget": 5,
    "reasoning_budget_message": "Enough.",
    "continue_final_message": False,
    "add_generation_prompt": True,
    "modalities": ["text"],
    "tool_choice": "none",
    "reasoning_format": "none",
    "enable_thinking": False,
    "parallel_tool_calls": True,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
}
SERVED_COMPLETION: dict[str, Any] = {"prompt": "Hi", "logprobs": 2, "echo": True, "best_of": 3}

PASSED_OVER: dict[str, tuple[Any, str]] = {
    "metadata": ({"a": "b"}, "nothing is stored"),
    "store": (True, "nothing is stored"),
    "verbosity": ("low", "no model here knows it"),
    "prediction": ({"type": "content", "content": "x"}, "only ever a hint for speed"),
    "cache_prompt": (False, "the prefix cache changes no answer"),
    "n_cache_reuse": (3, "the prefix cache changes no answer"),
    "id_slot": (1, "the scheduler chooses"),
    "n_keep": (5, "a context is never shifted"),
    "n_discard": (5, "a context is never shifted"),
    "return_tokens": (True, "of llama-server's own route"),
    "response_fields": (["content"], "of llama-server's own route"),
    "sse_ping_interval": (5, "the server's own ping_s"),
    "a_name_of_tomorrow": ({"x": [1]}, "unknown fields are no mistake"),
}

REFUSED: dict[str, tuple[Any, str]] = {
    "lora": ([{"scale": 1.0}], "lora[0]"),
    "grammar_lazy": (True, "grammar_lazy"),
}
REFUSED_CHAT: dict[str, tuple[Any, str]] = {
    "web_search_options": ({}, "web_search_options"),
    "top_logprobs": (3, "top_logprobs"),  # refused alone; with logprobs it is served
}
REFUSED_COMPLETION: dict[str, tuple[Any, str]] = {
    "suffix": ("x", "suffix"),  # served where the model fills in
    "reasoning_budget_tokens": (0, "reasoning_budget_tokens"),
    "thinking_budget_tokens": (50, "thinking_budget_tokens"),
    "thinking_budget": (50, "thinking_budget"),
}

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
}


def answers(values: dict[str, dict[str, Any]]) -> dict[tuple[str, str], httpx.Response]:
    """Of every route with each of its fields alone, by one application: `values` is field to value by route."""
    found: dict[tuple[str, str], httpx.Response] = {}

    async def ask() -> None:
        async with client_of(app_of(PreparingHost(n_ctx=4096))) as client:
            for path, fields in values.items():
                for field, value in fields.items():
                    found[path, field] = await client.post(path, json={**ROUTES[path], field: value})

    run(ask)
    return found


def by_route(
    both: dict[str, Any], chat: dict[str, Any] | None = None, completion: dict[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    return {"/v1/chat/completions": {**both, **(chat or {})}, "/v1/completions": {**both, **(completion or {})}}


def first(fields: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    return {field: value[0] for field, value in fields.items()}


def test_what_is_served_is_taken() -> None:
    found = answers(by_route(SERVED, SERVED_CHAT, SERVED_COMPLETION))
    assert {asked: answer.text for asked, answer in found.items() if answer.status_code != 200} == {}


def test_what_is_passed_over_changes_nothing() -> None:
    found = answers(by_route(first(PASSED_OVER)))
    assert {asked: answer.text for asked, answer in found.items() if answer.status_code != 200} == {}


def test_what_is_refused_is_named() -> None:
    wanted = by_route(REFUSED, REFUSED_CHAT, REFUSED_COMPLETION)
    for (path, field), answer in answers({path: first(fields) for path, fields in wanted.items()}).items():
        assert answer.status_code == 400, (path, field)
        assert answer.json()["error"]["param"] == wanted[path][field][1], (path, field)


def test_null_is_absent() -> None:
    found = answers(by_route(dict.fromkeys([*SERVED, *PASSED_OVER, *REFUSED])))
    assert {asked: answer.text for asked, answer in found.items() if answer.status_code != 200} == {}


@pytest.mark.parametrize(
    ("body", "tables"),
    [
        (ChatBody, (SERVED, SERVED_CHAT, PASSED_OVER, REFUSED, REFUSED_CHAT)),
        (CompletionBody, (SERVED, SERVED_COMPLETION, PASSED_OVER, REFUSED, REFUSED_COMPLETION)),
    ],
)
def test_the_table_holds_every_field_that_is_read(
    body: type[msgspec.Struct], tables: tuple[dict[str, Any], ...]
) -> None:
    told = [field for table in tables for field in table]
    assert len(told) == len(set(told))
    read = {field.name for field in msgspec.structs.fields(body)}
    assert read - set(told) == set()
    known = {field for table in tables if table is not PASSED_OVER for field in table}
    assert known - read == set()


def test_a_suffix_is_served_where_the_model_fills_in() -> None:
    async def law() -> None:
        host = PreparingHost()
        host.vocabulary.fim_ids = (260, 261, 262)
        async with client_of(app_of(host)) as client:
            assert (await client.post("/v1/completions", json={"prompt": "x", "suffix": "y"})).status_code == 200
        assert isinstance(host.requests[0], CompletionRequest)
        assert host.requests[0].suffix == "y"

    run(law)


RAISING = "{{ raise_exception('Only Latin is spoken here') }}"


@pytest.mark.parametrize(
    ("path", "body", "template", "expected"),
    [
        ("/v1/completions", {"prompt": [70000]}, "", {"param": "prompt", "type": "invalid_request_error"}),
        ("/v1/chat/completions", {"logit_bias": {"70000": 1}}, "", {"param": "logit_bias"}),
        ("/v1/chat/completions", {}, RAISING, {"param": "messages", "type": "invalid_request_error"}),
        (
            "/v1/completions",
            {"prompt": "x" * 63},
            "",
            {
                "param": "prompt",
                "type": "exceed_context_size_error",
                "code": "context_length_exceeded",
                "n_prompt_tokens": 64,
                "n_ctx": 64,
            },
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x" * 100}], "stream": True},
            "{{ messages[0].content }}",
            {
                "param": "messages",
                "type": "exceed_context_size_error",
                "code": "context_length_exceeded",
                "n_prompt_tokens": 101,
                "n_ctx": 64,
            },
        ),
    ],
    ids=["token", "bias", "template", "long prompt", "long chat"],
)
def test_what_only_the_model_can_refuse_is_told_in_one_body(
    path: str, body: dict[str, Any], template: str, expected: dict[str, Any]
) -> None:
    async def law() -> None:
        host = PreparingHost()
        host.template = template or host.template
        async with client_of(app_of(host)) as client:
            response = await client.post(path, json={**ROUTES[path], **body})
        assert response.status_code == 400
        error = response.json()["error"]
        assert {key: error[key] for key in expected} == expected
        assert error["message"]
        if template == RAISING:
            assert "Only Latin is spoken here" in error["message"]

    run(law)
