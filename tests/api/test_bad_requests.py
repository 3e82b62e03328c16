"""Every mistake gets a clear 400 that names the field, and never reaches a model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Message, Scope

from llamahost.api.body import MAX_ORDER_BYTES
from llamahost.core.errors import N_KNOWN, ModelNotFound
from llamahost.fleet.settings.route_spec import RouteSpec
from tests.api.fakes import FakeHost, app_of, client_of, run

HI = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": HI, **fields}).encode()


CHAT_MISTAKES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"   ", None),
    (b"{", None),
    (b"[]", None),
    (b"null", None),
    (b'"x"', None),
    (b"{}", "messages"),
    (b'{"messages": null}', "messages"),
    (b'{"messages": []}', "messages"),
    (b'{"messages": "Hi"}', "messages"),
    (b'{"messages": [1]}', "messages[0]"),
    (b'{"messages": [{"content": "x"}]}', "messages[0].role"),
    (b'{"messages": [{"role": "robot", "content": "x"}]}', "messages[0].role"),
    (b'{"messages": [{"role": "user"}]}', "messages[0].content"),
    (b'{"messages": [{"role": "user", "content": 3}]}', "messages[0].content"),
    (b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "messages[0].content[0].text"),
    (b'{"messages": [{"role": "user", "content": [{"type": "file"}]}]}', "messages[0].content[0].type"),
    (b'{"messages": [{"role": "user", "content": "\xff"}]}', None),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', None),
    (b'{"messages": [{"role": "user", "content": "Hi"}], "temperature": NaN}', None),
    (b'{"messages": [{"role": "user", "content": "Hi"}], "temperature": Infinity}', None),
    (b'{"messages": [{"role": "user", "content": "Hi"}], "temperature": 1e999}', "temperature"),
    (b'{"deep": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", None),
    (b'{"messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "messages[0]"),
    (b'{"chat_template_kwargs": {"a": ' + b"[" * 10_000, None),
    (chat(temperature="1"), "temperature"),
    (chat(temperature=10**400), "temperature"),
    (chat(model="m" * 2000), "model"),
    (chat(logit_bias={"1": 10**400}), "logit_bias[...]"),
    (chat(temperature=True), "temperature"),
    (chat(top_k=1.5), "top_k"),
    (chat(top_k=2**70), "top_k"),
    (chat(seed=2**64), "seed"),
    (chat(n=0), "n"),
    (chat(n=129), "n"),
    (chat(n=-1), "n"),
    (chat(max_tokens=-2), "max_tokens"),
    (chat(max_completion_tokens=2**31), "max_completion_tokens"),
    (chat(max_tokens=10**30), "max_tokens"),
    (chat(stream="yes"), "stream"),
    (chat(stream_options=3), "stream_options"),
    (chat(stop=[""]), "stop"),
    (chat(stop=["x"] * 65), "stop"),
    (chat(stop=[1]), "stop[0]"),
    (chat(timeout=0), "timeout"),
    (chat(timeout=-1.5), "timeout"),
    (chat(top_logprobs=3), "top_logprobs"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    (chat(logprobs=True, top_logprobs=-1), "top_logprobs"),
    (chat(logit_bias={"x": 1}), "logit_bias"),
    (chat(logit_bias={"-1": 1}), "logit_bias"),
    (chat(logit_bias={"9" * 30: 1}), "logit_bias"),
    (chat(logit_bias={"1": True}), "logit_bias"),
    (chat(logit_bias=[[1]]), "logit_bias[0]"),
    (chat(logit_bias=[["a", 1]]), "logit_bias"),
    (chat(samplers="kq"), "samplers"),
    (chat(functions=[{"name": 3}]), "functions[0].name"),
    (chat(modalities=["audio"]), "modalities"),
    (chat(tool_choice="f"), "tool_choice"),
    (chat(tool_choice={"type": "function"}), "tool_choice.function"),
    (chat(tool_choice={"type": "allowed_tools", "mode": "auto"}), "tool_choice"),
    (
        chat(tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "no", "tools": []}}),
        "tool_choice.allowed_tools.mode",
    ),
    (
        chat(tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}),
        "tool_choice",
    ),
    (chat(tools=[{"type": "web_search"}]), "tools[0].type"),
    (chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
    (chat(response_format={"type": "xml"}), "response_format.type"),
    (chat(response_format={"type": "json_schema"}), "response_format.json_schema.schema"),
    (chat(lora=[{"id": "x", "scale": 1.0}]), "lora[0].id"),
    (
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]),
        "messages[0].content[0].image_url.url",
    ),
    (
        chat(
            messages=[
                {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}]}
            ]
        ),
        "messages[0].content[0].input_audio.data",
    ),
]

COMPLETION_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [[1, 2**31]]}, "prompt[0][1]"),
    ({"prompt": [2**70]}, "prompt[0]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": "x", "logprobs": 21}, "logprobs"),
    ({"prompt": "x", "logprobs": True}, "logprobs"),
    ({"prompt": "x", "echo": True, "logprobs": 21}, "logprobs"),
    ({"prompt": "x", "suffix": "y", "echo": True, "logprobs": 0}, "suffix"),
    ({"prompt": "x", "suffix": 3}, "suffix"),
    ({"prompt": "x", "n_probs": 21}, "n_probs"),
    ({"prompt": "x", "n_probs": 1, "logprobs": 1}, "n_probs"),
    ({"prompt": "x", "t_max_predict_ms": 2**62}, "t_max_predict_ms"),
    ({"prompt": "x", "n_indent": -1}, "n_indent"),
    ({"prompt": "x", "best_of": 3, "stream": True}, "best_of"),
    ({"prompt": "x", "best_of": 2, "n": 3}, "best_of"),
    ({"prompt": "x", "best_of": 0}, "best_of"),
    ({"prompt": "x", "best_of": -1}, "best_of"),
    ({"prompt": "x", "best_of": 129}, "best_of"),
    ({"prompt": "x", "best_of": 2**70}, "best_of"),
]


async def refused(path: str, body: bytes, param: str | None) -> None:
    host = FakeHost()
    async with client_of(app_of(host)) as client:
        response = await client.post(path, content=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if param is not None:
        assert error["param"] == param, error
    assert host.requests == []


@pytest.mark.parametrize(("body", "param"), CHAT_MISTAKES, ids=lambda value: repr(value)[:60])
def test_a_mistake_in_a_chat_is_named(body: bytes, param: str | None) -> None:
    run(lambda: refused("/v1/chat/completions", body, param))


@pytest.mark.parametrize(("fields", "param"), COMPLETION_MISTAKES, ids=lambda value: repr(value)[:60])
def test_a_mistake_in_a_completion_is_named(fields: dict[str, Any], param: str) -> None:
    run(lambda: refused("/v1/completions", json.dumps(fields).encode(), param))


@pytest.mark.parametrize("field", ["json_schema", "chat_template_kwargs"])
def test_whole_numbers_of_any_length_go_through_where_they_are_only_passed_on(field: str) -> None:
    async def law() -> None:
        host = FakeHost()
        async with client_of(app_of(host)) as client:
            response = await client.post("/v1/chat/completions", content=chat(**{field: {"maximum": 2**70}}))
        assert response.status_code == 200
        assert str(2**70) in str(host.requests[0])

    run(law)


@pytest.mark.parametrize("depth", [*range(100, 1000, 100), *range(980, 1010, 3), 2000])
def test_a_deep_schema_is_passed_on_or_refused(depth: int) -> None:
    async def law() -> None:
        deep = chat(json_schema=0).replace(b": 0}", b": " + b'{"a":' * depth + b"1" + b"}" * depth + b"}")
        async with client_of(app_of(FakeHost())) as client:
            response = await client.post("/v1/chat/completions", content=deep)
        assert response.status_code in (200, 400)

    run(law)


def test_a_body_over_the_limit_is_413_however_it_comes() -> None:
    async def in_pieces() -> Any:
        for _ in range(4):
            yield b" " * 1024

    async def law() -> None:
        async with client_of(app_of(FakeHost(), max_body_bytes=2048)) as client:
            for content in (b" " * 2049, in_pieces()):
                response = await client.post("/v1/completions", content=content)
                assert response.status_code == 413
                assert response.json()["error"]["code"] == "body_too_large"
        async with client_of(app_of(FakeHost())) as client:  # with room for 64 MiB of words, and no more of these
            for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/lora-adapters", "/api/models/m/load"):
                assert (await client.post(path, content=b" " * (MAX_ORDER_BYTES + 1))).status_code == 413

    run(law)


def test_wrong_paths_and_methods_are_told_in_json() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            missing = await client.get("/v1/nothing")
            assert missing.status_code == 404
            assert missing.json()["error"]["type"] == "not_found_error"
            wrong = await client.get("/v1/chat/completions")
            assert wrong.status_code == 405
            assert wrong.headers["allow"] == "POST"
            assert wrong.json()["error"]["type"] == "invalid_request_error"
            assert wrong.json()["error"]["message"] == "this path takes POST and no other method"
            wrong = await client.post("/v1/models")
            assert wrong.json()["error"]["message"] == "this path takes GET and no other method"

    run(law)


@pytest.mark.parametrize(
    ("path", "body", "headers", "advice"),
    [
        ("completions", '{"messages": []}', {}, "`messages` is for /v1/chat/completions"),
        ("chat/completions", '{"prompt": "Hi"}', {}, "`prompt` is for /v1/completions"),
        ("chat/completions", "{}", {"Content-Encoding": "gzip"}, "without Content-Encoding"),
        (
            "chat/completions",
            '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]}',
            {},
            "images are not supported",
        ),
    ],
)
def test_who_is_a_little_wrong_is_told_what_to_do(path: str, body: str, headers: dict[str, str], advice: str) -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            answer = await client.post(f"/v1/{path}", content=body, headers=headers)
            assert answer.status_code == 400
            assert advice in answer.json()["error"]["message"]

    run(law)


def test_a_route_is_told_by_every_name_that_it_answers_to_and_who_knows_none_is_told_all() -> None:
    async def law() -> None:
        host = FakeHost(known_routes=(RouteSpec(name="talk", models=("tiny",), aliases=("gpt-*",)),))
        async with client_of(app_of(host)) as client:
            for name in ("talk", "gpt-4o", "TALK"):
                assert (await client.get(f"/v1/models/{name}")).json()["id"] == "talk"
            message = (await client.get("/v1/models/zzzzz")).json()["error"]["message"]
            assert message == "model `zzzzz` is not known here; served are `tiny`, `talk`"

    run(law)


def test_of_many_models_some_are_told_and_of_one_that_one() -> None:
    assert str(ModelNotFound("x", known=["m"])).endswith("; served is `m`")
    for n, rest in ((0, ""), (1, " and 1 other"), (2, " and 2 others")):
        told = str(ModelNotFound("x", known=[f"m{k}" for k in range(N_KNOWN + n)]))
        assert told.endswith(f"`m{N_KNOWN - 1}`{rest}")


@pytest.mark.parametrize("n_pieces", [1, 3])
def test_a_body_that_was_read_to_its_end_is_refused_without_waiting_for_more(n_pieces: int) -> None:
    """Its last piece is what goes over the limit; nothing comes after it, so nothing must be waited for."""

    async def law() -> None:
        app = app_of(FakeHost(), max_body_bytes=1024)
        pieces = [b" " * (1023 if k < n_pieces - 1 and k == 0 else 1) for k in range(n_pieces - 1)] + [b" " * 1025]
        sent: list[Message] = []

        async def receive() -> Message:
            assert pieces, "the body was at its end"
            body = pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(pieces)}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {
            "type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b"",
        }  # fmt: skip
        await app(scope, receive, send)
        assert sent[0]["status"] == 413
        assert not sent[-1].get("more_body", False)

    run(law)
