"""Chat completions as OpenAI's own types read them, whole and streamed."""

from __future__ import annotations

import asyncio
import json

import pytest

from llamahost.core.errors import ContextTooLong, DeadlineExceeded, GenerationFailed, ModelNotFound, Overloaded
from llamahost.core.events import Delta, Finished, Started, Usage
from llamahost.core.messages import ChatRequest, Text, ToolCall
from tests.api.asking import chunks_of, post
from tests.api.fakes import FakeHost, Step, likely, run, said
from tests.api.openai_types import chat_chunk_of, chat_of

pytestmark = pytest.mark.openai


def test_a_whole_answer_is_openais_type() -> None:
    async def law() -> None:
        response = await post(FakeHost())
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        answer = chat_of(response.json())
        assert answer.id.startswith("chatcmpl-")
        assert answer.model == "tiny"
        assert answer.choices[0].message.content == "Hello"
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 2, 7)
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 2
        timings = response.json()["timings"]
        assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (2, 3, 2)
        assert timings["prompt_per_second"] == pytest.approx(300)
        assert timings["predicted_per_second"] == pytest.approx(100)

    run(law)


def test_a_stream_is_openais_chunks_role_first_and_reason_last() -> None:
    async def law() -> None:
        response = await post(FakeHost(said("Hé", 'l"\n', "")), stream=True)
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        raw = list(chunks_of(response.text))
        chunks = [chat_chunk_of(chunk) for chunk in raw]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == 'Hél"\n'
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
        assert len({chunk.id for chunk in chunks}) == 1
        assert "usage" not in raw[-1]
        assert raw[-1]["timings"]["predicted_n"] == 3

    run(law)


def test_include_usage_adds_a_last_chunk_without_choices() -> None:
    async def law() -> None:
        response = await post(FakeHost(), stream=True, stream_options={"include_usage": True})
        *before, last = chunks_of(response.text)
        assert all(chunk["usage"] is None for chunk in before)
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == 7
        assert last["timings"]["cache_n"] == 2
        chat_chunk_of(last)

    run(law)


def test_several_answers_share_one_prompt_in_the_count() -> None:
    async def law() -> None:
        first, second = said("a", "b"), said("c", index=1, n_cached=5)
        mixed = [first[0], second[0], first[1], second[1], second[2], first[2], first[3]]
        response = await post(FakeHost(mixed), n=2)
        answer = chat_of(response.json())
        assert [choice.message.content for choice in answer.choices] == ["ab", "c"]
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 3)

    run(law)


def test_logprobs_have_bytes_and_no_infinity() -> None:
    async def law() -> None:
        script: list[Step] = [Started(0, "tiny", 1, 0), Delta(0, "a", n_tokens=1, logprobs=(likely("a"),))]
        finish = Finished(0, "length", Usage(1, 0, 1))
        response = await post(FakeHost([*script, finish]), logprobs=True, top_logprobs=2)
        choice = chat_of(response.json()).choices[0]
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        token = choice.logprobs.content[0]
        assert (token.token, token.bytes, token.logprob) == ("a", [97], -0.5)
        assert [(top.bytes, top.logprob) for top in token.top_logprobs] == [([97], -0.5), ([255], -9999.0)]
        streamed = await post(FakeHost([*script, finish]), logprobs=True, top_logprobs=2, stream=True)
        chunks = [chat_chunk_of(chunk) for chunk in chunks_of(streamed.text)]
        assert chunks[1].choices[0].logprobs is not None
        assert chunks[-1].choices[0].finish_reason == "length"

    run(law)


def test_reasoning_and_calls_have_their_own_places() -> None:
    script: list[Step] = [
        Started(0, "tiny", 1, 0),
        Delta(0, "hm", "reasoning"),
        Delta(0, "", "tool", call_id="c1", call_name="f"),
        Delta(0, '{"x":', "tool"),
        Delta(0, "1}", "tool"),
        Delta(0, "{}", "tool", call_id="c2", call_name="g"),
        Finished(0, "tool", Usage(1, 0, 4)),
    ]

    async def law() -> None:
        whole = (await post(FakeHost(list(script)))).json()["choices"][0]
        assert whole["finish_reason"] == "tool_calls"
        assert whole["message"]["content"] is None
        assert whole["message"]["reasoning_content"] == "hm"
        assert [c["function"] for c in whole["message"]["tool_calls"]] == [
            {"name": "f", "arguments": '{"x":1}'},
            {"name": "g", "arguments": "{}"},
        ]
        streamed = await post(FakeHost(list(script)), stream=True)
        chunks = [chat_chunk_of(chunk) for chunk in chunks_of(streamed.text)]
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        assert [call.index for call in calls] == [0, 0, 0, 1]
        assert [call.id for call in calls] == ["c1", None, None, "c2"]

    run(law)


def test_words_arrive_as_they_were_meant() -> None:
    async def law() -> None:
        host = FakeHost()
        response = await post(
            host,
            "/chat/completions",
            messages=[
                {"role": "developer", "content": "be brief"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    "name": "x",
                },
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                {"role": "tool", "tool_call_id": "1", "content": "42"},
            ],
            temperature=0,
            top_k=3,
            min_p=None,
            samplers="ktp",
            stop="END",
            seed=-1,
            max_tokens=9,
            max_completion_tokens=None,
            logit_bias={"5": -100, "6": False},
            chat_template_kwargs={"enable_thinking": False},
            timeout=3,
            user="me",
            metadata={"a": "b"},
            service_tier="auto",
        )
        assert response.status_code == 200
        request = host.requests[0]
        assert isinstance(request, ChatRequest)
        assert [message.role for message in request.messages] == ["developer", "user", "assistant", "tool"]
        assert request.messages[1].parts == (Text("a"), Text("b"))
        assert request.messages[2].tool_calls == (ToolCall("1", "f", "{}"),)
        assert request.template_options == {"enable_thinking": False}
        assert request.generation.stop == ("END",)
        assert request.generation.max_tokens == 9
        assert request.generation.timeout_s == 3
        assert request.generation.sampling == {
            "temperature": 0,
            "top_k": 3,
            "samplers": ("top_k", "temperature", "top_p"),
            "seed": None,
            "logit_bias": ((5, -100.0), (6, float("-inf"))),
        }

    run(law)


@pytest.mark.parametrize(
    ("error", "status", "type_", "code"),
    [
        (
            ContextTooLong(n_prompt=99, n_ctx=64, model="tiny"),
            400,
            "exceed_context_size_error",
            "context_length_exceeded",
        ),
        (ModelNotFound("x"), 404, "not_found_error", "model_not_found"),
        (Overloaded("full", retry_after_s=2.5), 429, "rate_limit_error", "queue_full"),
        (DeadlineExceeded(1.0), 504, "timeout_error", "deadline_exceeded"),
        (GenerationFailed("broke"), 500, "server_error", "generation_failed"),
        (RuntimeError("secret /path"), 500, "server_error", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_token_is_a_status(
    error: Exception, status: int, type_: str, code: str | None, stream: bool
) -> None:
    async def law() -> None:
        response = await post(FakeHost([error]), stream=stream)
        assert response.status_code == status
        body = response.json()["error"]
        assert (body["type"], body["code"]) == (type_, code)
        assert "secret" not in response.text
        assert response.headers["x-request-id"] in body["message"] or code is not None
        if isinstance(error, Overloaded):
            assert response.headers["retry-after"] == "3"
        if isinstance(error, ContextTooLong):
            assert (body["n_prompt_tokens"], body["n_ctx"]) == (99, 64)

    run(law)


def test_an_error_after_the_first_token_is_an_event_and_the_end() -> None:
    async def breathe() -> None:
        for _ in range(5):  # until what came before has been sent
            await asyncio.sleep(0)

    async def law() -> None:
        response = await post(FakeHost([*said("a")[:2], breathe, GenerationFailed("broke")]), stream=True)
        assert response.status_code == 200
        *_, last, empty = response.text.split("\n\n")
        assert empty == ""
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "generation_failed"
        assert "[DONE]" not in response.text

    run(law)
