"""Legacy completions as OpenAI's own types read them, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from llamahost.core.events import (
    Delta,
    Echoed,
    Finished,
    Likely,
    Measured,
    Progress,
    PromptLogprob,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from llamahost.core.messages import CompletionRequest
from tests.api.asking import chunks_of
from tests.api.fakes import FakeHost, Step, app_of, client_of, run, said
from tests.api.openai_types import completion_chunk_of, completion_of

pytestmark = pytest.mark.openai


async def post(host: FakeHost, path: str = "/v1/completions", **fields: Any) -> Any:
    async with client_of(app_of(host)) as client:
        return await client.post(path, json=fields)


def test_a_whole_completion_is_openais_type() -> None:
    async def law() -> None:
        answer = completion_of((await post(FakeHost(), prompt="x")).json())
        assert answer.id.startswith("cmpl-")
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Hello", "stop")
        assert answer.usage is not None
        assert answer.usage.total_tokens == 7

    run(law)


def test_a_stream_is_the_same_type_in_pieces() -> None:
    async def law() -> None:
        response = await post(
            FakeHost(), "/completions", prompt="x", stream=True, stream_options={"include_usage": True}
        )
        # As the SDK reads a stream: its type denies the null reason that OpenAI itself sends until the last.
        chunks = [completion_chunk_of(chunk) for chunk in chunks_of(response.text)]
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, "stop"]
        assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "Hello"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.prompt_tokens == 5

    run(law)


def test_many_prompts_count_each_prompt_once() -> None:
    async def law() -> None:
        script = [step for index in range(4) for step in said("a", index=index)]
        host = FakeHost(script)
        answer = completion_of((await post(host, prompt=["x", "y"], n=2)).json())
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 4)

    run(law)


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ([[1], "b"], ((1,), "b")),
    ],
)
def test_prompts_come_as_text_or_tokens(prompt: object, meant: object) -> None:
    async def law() -> None:
        host = FakeHost()
        assert (await post(host, prompt=prompt)).status_code == 200
        assert isinstance(host.requests[0], CompletionRequest)
        prompts = host.requests[0].prompts
        assert tuple(p if isinstance(p, str) else tuple(p) for p in prompts) == meant

    run(law)


def test_legacy_logprobs_are_parallel_lists_with_offsets_in_characters() -> None:
    def token(piece: bytes, *top: tuple[bytes, float]) -> TokenLogprob:
        return TokenLogprob(1, piece, -0.25, tuple(Likely(1, other, logprob) for other, logprob in top))

    script: list[Step] = [
        Started(0, "tiny", 1, 0),
        Delta(0, "ab", n_tokens=1, logprobs=(token(b"ab", (b"x", -0.1)),)),
        Delta(0, "é!", n_tokens=3, logprobs=(token(b"\xc3"), token(b"\xa9"), token(b"!"))),
        Finished(0, "stop", Usage(1, 0, 4)),
    ]

    async def law() -> None:
        whole = completion_of((await post(FakeHost(list(script)), prompt="x", logprobs=1)).json())
        logprobs = whole.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens == ["ab", "bytes:\\xc3", "bytes:\\xa9", "!"]
        assert logprobs.text_offset == [0, 2, 2, 3]
        assert logprobs.token_logprobs == [-0.25] * 4
        assert logprobs.top_logprobs is not None
        assert logprobs.top_logprobs[0] == {"x": -0.1, "ab": -0.25}
        response = await post(FakeHost(list(script)), prompt="x", logprobs=1, stream=True)
        offsets: list[int] = []
        for chunk in chunks_of(response.text):
            part = completion_chunk_of(chunk).choices[0].logprobs
            offsets += (part.text_offset or []) if part else []
        assert offsets == logprobs.text_offset

    run(law)


def test_an_echo_with_logprobs_leads_the_lists_and_the_text() -> None:
    script: list[Step] = [
        Started(0, "tiny", 3, 0),
        Echoed(0, "h", (PromptLogprob(9, b"<s>", 0, None), PromptLogprob(1, b"h", 0, -1.0, (Likely(2, b"i", -0.5),)))),
        Echoed(0, "é", (PromptLogprob(3, b"\xc3\xa9", 1, float("-inf")),)),
        Delta(0, "ab", n_tokens=1, logprobs=(TokenLogprob(1, b"ab", -0.25),)),
        Delta(0, "c", n_tokens=1, logprobs=(TokenLogprob(1, b"c", -0.25),)),
        Finished(0, "stop", Usage(3, 0, 2)),
    ]

    async def law() -> None:
        host = FakeHost(list(script))
        whole = (await post(host, prompt="x", logprobs=1, echo=True, max_tokens=2)).json()["choices"][0]
        assert isinstance(host.requests[0], CompletionRequest)
        assert host.requests[0].n_prompt_logprobs == 1
        assert whole["text"] == "héabc"
        logprobs = whole["logprobs"]
        assert logprobs == {
            "tokens": ["<s>", "h", "é", "ab", "c"],
            "token_logprobs": [None, -1.0, -9999.0, -0.25, -0.25],
            "top_logprobs": [None, {"i": -0.5, "h": -1.0}, {"é": -9999.0}, {"ab": -0.25}, {"c": -0.25}],
            "text_offset": [0, 0, 1, 2, 4],
        }
        streamed = chunks_of((await post(FakeHost(list(script)), prompt="x", logprobs=1, echo=True, stream=True)).text)
        parts = [chunk["choices"][0] for chunk in streamed]
        assert "".join(part["text"] for part in parts) == whole["text"]
        for key, wanted in logprobs.items():
            assert [item for part in parts if part["logprobs"] for item in part["logprobs"][key]] == wanted

    run(law)


def scored(text: str, *logprobs: float, index: int) -> list[Step]:
    tokens = tuple(TokenLogprob(1, b"x", logprob) for logprob in logprobs)
    usage = Usage(5, 0, len(logprobs))
    return [Started(index, "tiny", 5, 0), Delta(index, text, logprobs=tokens), Finished(index, "stop", usage)]


def test_best_of_keeps_the_likeliest_of_each_prompt_by_the_mean() -> None:
    async def law() -> None:
        script = [
            *scored("a", -1.0, index=0),
            *scored("b", -0.5, -0.7, index=1),  # likelier a token than `a`, though not in the sum
            *scored("c", index=2),
            *scored("d", -3.0, index=3),
            *scored("e", -2.0, index=4),
            *scored("f", -4.0, index=5),
        ]
        host = FakeHost(script)
        response = await post(host, prompt=["x", "y"], n=2, best_of=3)
        answer = completion_of(response.json())
        assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "b"), (1, "a"), (2, "e"), (3, "d")]
        assert all(choice.logprobs is None for choice in answer.choices)  # the choice needed them, nobody asked
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 6)  # all that was computed
        assert (host.requests[0].generation.n, host.requests[0].generation.n_logprobs) == (3, 0)

    run(law)


def test_best_of_with_logprobs_shows_them() -> None:
    async def law() -> None:
        host = FakeHost([*scored("a", -1.0, index=0), *scored("b", -0.5, index=1)])
        choices = (await post(host, prompt="x", best_of=2, logprobs=3)).json()["choices"]
        assert [choice["text"] for choice in choices] == ["b"]
        assert choices[0]["logprobs"]["token_logprobs"] == [-0.5]
        assert host.requests[0].generation.n_logprobs == 3

    run(law)


@pytest.mark.parametrize("fields", [{"n": 2, "best_of": 2, "stream": True}, {"best_of": 1, "stream": True}])
def test_best_of_n_is_n(fields: dict[str, Any]) -> None:
    async def law() -> None:
        host = FakeHost()
        assert (await post(host, prompt="x", **fields)).status_code == 200
        assert host.requests[0].generation.n_logprobs is None

    run(law)


def test_echo_is_asked_of_the_host() -> None:
    async def law() -> None:
        host = FakeHost()
        assert (await post(host, prompt="x", echo=True)).status_code == 200
        assert isinstance(host.requests[0], CompletionRequest)
        assert host.requests[0].echo
        assert host.requests[0].n_prompt_logprobs is None
        assert (await post(host, prompt="x", logprobs=1, best_of=2)).status_code == 200
        assert (await post(host, prompt="x", echo=True, best_of=2)).status_code == 200
        assert [request.n_prompt_logprobs for request in host.requests if isinstance(request, CompletionRequest)] == [
            None, None, None,
        ]  # fmt: skip

    run(law)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("is_prob", [False, True])
def test_n_probs_are_told_as_llama_server_tells_them(path: str, is_prob: bool) -> None:
    top = (Likely(7, b"a", 0.0), Likely(8, b"\xff", float("-inf")))
    script: list[Step] = [
        Started(0, "tiny", 3, 0),
        Delta(0, "a", n_tokens=1, logprobs=(TokenLogprob(7, b"a", 0.0, top),)),
        Finished(0, "stop", Usage(3, 0, 1)),
    ]
    ask: dict[str, Any] = {"n_probs": 2, "post_sampling_probs": is_prob}
    ask |= {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
    name, likely, unlikely = ("prob", 1.0, 0.0) if is_prob else ("logprob", 0.0, -9999.0)
    wanted = {
        "id": 7, "token": "a", "bytes": [97], name: likely,
        f"top_{name}s": [
            {"id": 7, "token": "a", "bytes": [97], name: likely},
            {"id": 8, "token": "\ufffd", "bytes": [255], name: unlikely},
        ],
    }  # fmt: skip

    async def law() -> None:
        host = FakeHost(list(script))
        choice = (await post(host, path, **ask)).json()["choices"][0]
        assert choice["logprobs"]["content"] == [wanted]
        generation = host.requests[0].generation
        assert (generation.n_logprobs, generation.is_post_sampling) == (2, is_prob)
        chunks = chunks_of((await post(host, path, **ask, stream=True)).text)
        told = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
        assert [part["content"] for part in told] == [[wanted]]

    run(law)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("include_usage", [False, True])
def test_progress_and_timings_come_in_chunks_of_their_own_and_with_each_text(path: str, include_usage: bool) -> None:
    measured = Measured(Usage(9, 4, 1), Timings(0.1, 0.5, 0.25))
    script: list[Step] = [
        Started(0, "tiny", 9, 4),
        Progress(0, 9, 4, 7, 0.25),
        Delta(0, "a", n_tokens=1, measured=measured),
        Finished(0, "stop", Usage(9, 4, 1)),
    ]
    ask: dict[str, Any] = {"return_progress": True, "timings_per_token": True, "t_max_predict_ms": 1500}
    ask |= {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}

    async def law() -> None:
        host = FakeHost(list(script))
        whole = (await post(host, path, **ask)).json()
        assert "prompt_progress" not in whole
        ask["stream_options"] = {"include_usage": include_usage}
        chunks = list(chunks_of((await post(host, path, **ask, stream=True)).text))
        told = [(k, chunk["prompt_progress"]) for k, chunk in enumerate(chunks) if "prompt_progress" in chunk]
        ((k, progress),) = told
        assert progress == {"total": 9, "cache": 4, "processed": 7, "time_ms": 250.0}
        timings = chunks[k + 1]["timings"]
        assert (timings["prompt_ms"], timings["predicted_ms"]) == (500, 250)
        assert (timings["cache_n"], timings["prompt_n"]) == (4, 5)
        assert all(chunk["usage"] is None for chunk in chunks[:-1]) if include_usage else "usage" not in chunks[-1]
        first, second = (request.generation for request in host.requests)
        assert (first.tells_progress, first.tells_timings, first.line_limit_s) == (False, False, 1.5)
        assert (second.tells_progress, second.tells_timings) == (True, True)

    run(law)
