"""What /openapi.json promises is what the routes do; /docs is one page that asks nobody for anything."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from llamahost.api.affinity import LOADING_HEADERS, PRIORITY_HEADERS, SESSION_HEADERS, USER_HEADERS
from llamahost.api.document import document
from llamahost.api.openai_answers import ChatAnswer, CompletionAnswer, ErrorAnswer, ModelAnswer, ModelsAnswer
from llamahost.api.openai_types import ChatBody, CompletionBody
from llamahost.api.operations import OPERATIONS
from llamahost.core.errors import ContextTooLong
from llamahost.core.events import Delta, Finished, Started, Usage
from llamahost.core.sampling import MAX_BIASES
from tests.api.fakes import CARD, READY, FakeHost, PreparingHost, Step, app_of, client_of, likely, run

RICH: list[Step] = [
    Started(0, "tiny", 1, 0),
    Delta(0, "hm", "reasoning"),
    Delta(0, "a", logprobs=(likely("a"),)),
    Delta(0, "{}", "tool", call_id="c1", call_name="f"),
    Finished(0, "tool", Usage(1, 0, 3)),
]
HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("method", "path", "body", "script", "answer"),
    [
        ("POST", "/v1/chat/completions", {"messages": HI}, None, ChatAnswer),
        ("POST", "/v1/chat/completions", {"messages": HI, "logprobs": True}, RICH, ChatAnswer),
        ("POST", "/v1/completions", {"prompt": "x"}, None, CompletionAnswer),
        ("POST", "/v1/completions", {"prompt": "x", "logprobs": 1}, RICH, CompletionAnswer),
        ("POST", "/v1/completions", {"prompt": "x", "n_probs": 1}, RICH, CompletionAnswer),
        ("POST", "/v1/chat/completions", {"messages": HI, "n_probs": 1, "post_sampling_probs": True}, RICH, ChatAnswer),
        ("GET", "/v1/models", None, None, ModelsAnswer),
        ("GET", "/v1/models/small", None, None, ModelAnswer),
        ("GET", "/v1/models/x", None, None, ErrorAnswer),
        ("GET", "/nowhere", None, None, ErrorAnswer),
        ("POST", "/v1/completions", {"prompt": 3}, None, ErrorAnswer),
        ("POST", "/v1/completions", {"prompt": "x"}, [ContextTooLong(n_prompt=9, n_ctx=8, model="m")], ErrorAnswer),
    ],
)
def test_every_answer_is_of_the_type_that_is_told(
    method: str, path: str, body: Any, script: list[Step] | None, answer: type[msgspec.Struct]
) -> None:
    async def law() -> None:
        host = FakeHost(list(script)) if script else FakeHost()
        host.statuses = (replace(READY, card=CARD), replace(READY, name="b", state="failed", reason="corrupt"))
        async with client_of(app_of(host)) as client:
            response = await client.request(method, path, json=body)
        msgspec.json.decode(response.content, type=answer)  # unknown fields are forbidden there

    run(law)


def refs(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(ref := value.get("$ref"), str):
            yield ref
        for inner in value.values():
            yield from refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def test_the_document_is_whole_and_served() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost(), api_key="sesame")) as client:
            response = await client.get("/openapi.json")
        assert response.status_code == 200
        told = response.json()
        assert told == the_document()
        assert told["openapi"] == "3.1.0"
        schemas = told["components"]["schemas"]
        found = set(refs(told))
        assert found
        assert {ref.removeprefix("#/components/schemas/") for ref in found} == set(schemas)
        for body in (ChatBody, CompletionBody):
            assert set(schemas[body.__name__]["properties"]) == {f.name for f in msgspec.structs.fields(body)}
        assert schemas["ChatBody"]["required"] == ["messages"]
        assert schemas["CompletionBody"]["required"] == ["prompt"]

    run(law)


def test_every_path_of_the_document_has_a_route_and_takes_the_methods_that_are_told_and_no_other() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            for path in {operation.path for operation in OPERATIONS}:
                taken = {operation.method.upper() for operation in OPERATIONS if operation.path == path}
                taken |= {"HEAD"} & {method.replace("GET", "HEAD") for method in taken}
                for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - taken:
                    response = await client.request(method, path.replace("{name}", "tiny"))
                    assert response.status_code == 405, (method, path)
                    assert set(response.headers["allow"].split(", ")) == taken, (method, path)

    run(law)


def test_the_page_tells_every_field_and_needs_nothing_from_elsewhere() -> None:
    async def law() -> None:
        async with client_of(app_of(FakeHost(), api_key="sesame")) as client:
            response = await client.get("/docs")
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "script-src 'none'" in response.headers["content-security-policy"]
        page = response.text
        assert re.findall(r"(?:src|href)=\"(?!#)([^\"]*)\"", page) == ["openapi.json"]
        assert "url(" not in page
        assert "<script" not in page
        for link in re.findall(r'href="#([^"]*)"', page):
            assert f'id="{link}"' in page
        for operation in OPERATIONS:
            assert f'{operation.path}"><span' in page, "named at the top, and led to"
        for field in msgspec.structs.fields(ChatBody):
            assert f">{field.name}</code>" in page

    run(law)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_the_headers_that_are_told_are_those_that_are_heard_and_answered(path: str) -> None:
    told: Any = the_document()["paths"]
    operation = told[path]["post"]
    heard = [*SESSION_HEADERS, *USER_HEADERS, *PRIORITY_HEADERS, *LOADING_HEADERS]
    for parameter in operation["parameters"]:
        assert parameter["in"] == "header"
        assert parameter["name"].lower().encode() in heard

    async def law() -> None:
        async with client_of(app_of(FakeHost([Started(0, "tiny", 1, 0, "tiny#0", 2), *RICH[1:]]))) as client:
            answer = await client.post(path, json={"messages": HI, "input": "x"})
        assert answer.status_code == 200
        of_an_answer = set(operation["responses"]["200"]["headers"])
        who = {name for name in answer.headers if name.startswith("x-llamahost")}
        assert who == of_an_answer or (path.endswith("embeddings") and who < of_an_answer)

    run(law)


def sent(field: str, value: float) -> dict[str, Any]:
    more = {"logprobs": True} if field == "top_logprobs" else {}
    return {**more, field: value}


def beyond(keyword: str, limit: float) -> float:
    down = keyword in ("minimum", "exclusiveMinimum")
    if keyword.startswith("exclusive"):
        return limit
    step = 1 if isinstance(limit, int) else max(abs(limit) * 0.01, 1e-3)
    return limit - step if down else limit + step


the_document = functools.cache(document)  # a quarter of a second of work

GENERATES = {"temperature", "top_k", "n", "max_tokens", "timeout"}
LIMITED: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "/v1/chat/completions": ("ChatBody", {"messages": HI}, GENERATES),
    "/v1/completions": ("CompletionBody", {"prompt": "x"}, GENERATES),
    "/v1/embeddings": ("EmbeddingsBody", {"input": "x"}, {"dimensions", "timeout"}),
    "/v1/rerank": ("RerankBody", {"query": "x", "documents": ["x"]}, {"top_n", "timeout"}),
}


@pytest.mark.parametrize("path", LIMITED)
def test_the_limits_that_are_told_are_those_that_hold(path: str) -> None:
    name, least, expected = LIMITED[path]
    schemas: Any = the_document()["components"]
    properties = schemas["schemas"][name]["properties"]
    limited: dict[str, dict[str, float]] = {}
    for field, schema in properties.items():
        for branch in schema.get("anyOf", ()):
            if branch.get("type") in ("number", "integer"):
                limited[field] = {k: v for k, v in branch.items() if "imum" in k and abs(v) < 2**62}

    async def law() -> None:
        host = PreparingHost()
        async with client_of(app_of(host)) as client:
            for field, keywords in limited.items():
                for keyword, limit in keywords.items():
                    if not keyword.startswith("exclusive"):
                        response = await client.post(path, json={**least, **sent(field, limit)})
                        assert response.status_code == 200, (field, limit, response.text)
                    value = beyond(keyword, limit)
                    response = await client.post(path, json={**least, **sent(field, value)})
                    assert response.status_code == 400, (field, value)
                    assert response.json()["error"]["param"] == field
            if "stop" not in properties:
                return
            for stop in ([], ["x"] * 64, "x" * 1024):
                assert (await client.post(path, json={**least, "stop": stop})).status_code == 200
            for stop in ([""], ["x"] * 65, "x" * 1025):
                assert (await client.post(path, json={**least, "stop": stop})).status_code == 400
            for n, status in ((32, 200), (33, 400)):
                given = {**least, "dry_sequence_breakers": ["x"] * n}
                assert (await client.post(path, json=given)).status_code == status
            for biases in ({str(k): 1 for k in range(MAX_BIASES + 1)}, [[1, 1]] * (MAX_BIASES + 1)):
                response = await client.post(path, json={**least, "logit_bias": biases})
                assert (response.status_code, response.json()["error"]["param"]) == (400, "logit_bias")

    assert expected <= {field for field, told in limited.items() if told}
    run(law)
