"""Laws of what a request says of its conversation and its urgency, and of what it is told of who answered."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from llamahost.api.affinity import SESSION_HEADERS
from llamahost.api.openai_answers import ModelsAnswer
from llamahost.core.errors import InvalidRequest
from llamahost.core.events import Started
from llamahost.core.messages import Generation
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import ModelStatus
from tests.api.fakes import READY, FakeHost, app_of, client_of, run, said


async def asked(body: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[Generation, int]:
    """What the library is asked, and the status."""
    host = FakeHost()
    async with client_of(app_of(host)) as client:
        messages = [{"role": "user", "content": "Hi"}]
        answer = await client.post("/v1/chat/completions", json={"messages": messages, **body}, headers=headers or {})
    return host.requests[0].generation if host.requests else Generation(), answer.status_code


def test_a_conversation_is_named_by_a_header_or_else_by_the_body() -> None:
    async def law() -> None:
        for name in SESSION_HEADERS:
            generation, _ = await asked({"prompt_cache_key": "key"}, {name.decode(): "chat-1"})
            assert generation.session_id == "chat-1"
        assert (await asked({"prompt_cache_key": "key", "user": "ada"}))[0].session_id == "key"
        generation, _ = await asked({"user": "ada"}, {"x-openwebui-user-id": "bob"})
        assert (generation.session_id, generation.user) == ("", "bob")
        assert len((await asked({"user": "x" * 10_000}))[0].user) == 256

    run(law)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_a_split_keeps_embeddings_and_scores_together_by_their_user_or_the_same_headers(path: str) -> None:
    async def law() -> None:
        host = FakeHost()
        body = {"input": "x", "query": "x", "documents": ["x"], "user": "ada" + "x" * 10_000}
        async with client_of(app_of(host)) as client:
            for headers in ({}, {"x-user-id": "bob"}, {"x-user-id": "bob", SESSION_HEADERS[0].decode(): "chat-1"}):
                assert (await client.post(path, json=body, headers=headers)).status_code == 200
        assert [request.user[:6] for request in host.whole] == ["adaxxx", "bob", "chat-1"]
        assert len(host.whole[0].user) == 256

    run(law)


def test_a_request_says_whether_it_waits_for_a_load() -> None:
    async def law() -> None:
        for word, waits in (("wait", True), ("Refuse", False), ("auto", None)):
            assert (await asked({}, {"x-when-loading": word}))[0].waits is waits
        assert (await asked({}))[0].waits is None
        assert (await asked({}, {"x-when-loading": "soon"}))[1] == 400

    run(law)


def test_batches_go_after_whoever_waits_and_numbers_are_vllms() -> None:
    async def law() -> None:
        plain = (await asked({}))[0].priority
        for body, headers in (
            ({"priority": "batch"}, {}),
            ({"service_tier": "flex"}, {}),
            ({}, {"x-priority": "batch"}),
        ):
            assert (await asked(body, headers))[0].priority < plain
        assert (await asked({"priority": "interactive"}, {}))[0].priority == plain
        assert (await asked({"priority": -5}))[0].priority > plain > (await asked({"priority": 5}))[0].priority
        assert (await asked({}, {"x-priority": "soon"}))[1] == 400
        assert (await asked({"priority": "soon"}))[1] == 400

    run(law)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_headers_say_who_answered_after_how_many_tries(is_streamed: bool) -> None:
    async def law() -> None:
        script = [
            replace(step, model="größe", replica="größe#1", n_tries=2) if isinstance(step, Started) else step
            for step in said("Hi")
        ]
        async with client_of(app_of(FakeHost(script))) as client:
            body = {"messages": [{"role": "user", "content": "Hi"}], "stream": is_streamed}
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.headers["x-llamahost-model"] == "gr%C3%B6%C3%9Fe"
            assert answer.headers["x-llamahost-replica"] == "gr%C3%B6%C3%9Fe#1"
            assert answer.headers["x-llamahost-tries"] == "2"
        async with client_of(app_of(FakeHost([InvalidRequest("no")]))) as client:
            assert "x-llamahost-replica" not in (await client.post("/v1/chat/completions", json=body)).headers

    run(law)


def test_a_route_is_listed_as_a_model_that_says_which_it_stands_for() -> None:
    async def law() -> None:
        loading = ModelStatus(name="big", state="loading")
        route = RouteSpec(name="org/chat", models=("big", "tiny"), aliases=("gpt-*",))
        host = FakeHost(statuses=(loading, READY), known_routes=(route,))
        async with client_of(app_of(host)) as client:
            listed = msgspec.json.decode((await client.get("/v1/models")).content, type=ModelsAnswer)
            assert [model.id for model in listed.data] == ["big", "tiny", "org/chat"]
            assert (listed.data[2].models, listed.data[2].strategy) == (["big", "tiny"], "fallback")
            assert listed.data[2].status.value == "ready", "one of them is"
            assert (await client.get("/v1/models/org/chat")).json()["id"] == "org/chat"

    run(law)
