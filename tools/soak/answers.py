"""What a valid answer is, of each route: raises AssertionError with what is wrong. Knows no wire and no manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tools.soak.wire import Response

FINISHES = {"stop", "length", "tool_calls", "function_call"}
Json = dict[str, Any]


@dataclass
class Said:
    """One answer of a response, put together again."""

    text: str = ""
    reasoning: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)  # name, arguments
    finish: str | None = None
    n_logprobs: int = 0
    tokens: list[str] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)


class InStream(AssertionError):
    """An error event, which is a valid end of a stream."""


def error_of(response: Response) -> Json:
    told = json.loads(response.body)
    error = told["error"]
    assert isinstance(error["message"], str), told
    assert error["message"], told
    assert isinstance(error["type"], str), told
    if response.status in (429, 503) and error.get("code") != "model_failed_to_load":
        assert int(response.headers["retry-after"]) >= 1, response
    return dict(error)


def events_of(response: Response) -> tuple[list[Json], str]:
    """Its data, and how it ended: `done`, `error`, `cut` (no word of an end)."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.headers
    end, found = "cut", []
    for block in response.body.decode("utf-8", "strict" if not response.was_cut else "replace").split("\n\n"):
        if not block or block.startswith(":"):
            continue
        if not block.startswith("data: ") or (response.was_cut and block.count("}") == 0):
            assert response.was_cut or block.startswith("event: "), block
            continue
        assert end != "done", f"something follows [DONE]: {block}"
        if block == "data: [DONE]":
            end = "done" if end == "cut" else end
            continue
        try:
            event = json.loads(block.removeprefix("data: "))
        except ValueError:
            assert response.was_cut, block
            continue
        if "error" in event:
            end = "error"
            assert event["error"]["message"], event
            assert event["error"].get("type") != "server_error", event
        found.append(event)
    return found, end


def said_of(response: Response, *, is_chat: bool, is_stream: bool, n: int) -> tuple[list[Said], Json | None]:
    """The answers of a 200 in full, in order, and the usage. Raises InStream where an error event ended it."""
    if is_stream:
        events, end = events_of(response)
        if end == "error":
            raise InStream(events[-1]["error"]["message"])
        assert end == "done", f"a stream without an end: {response.body[-300:]!r}"
    else:
        events = [json.loads(response.body)]
    said = [Said() for _ in range(n)]
    usage = None
    for event in events:
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            each = said[choice["index"]]
            assert each.finish is None, f"news of an answer that has ended: {event}"
            if is_chat:
                _add_message(each, choice["delta" if is_stream else "message"], is_stream=is_stream)
                _add_logprobs(each, choice.get("logprobs"))
            else:
                each.text += choice["text"]
                logprobs = choice.get("logprobs") or {}
                each.n_logprobs += len(logprobs.get("tokens") or ())
            each.finish = choice.get("finish_reason")
    for each in said:
        assert each.finish in FINISHES, (each, response.body[-300:])
    return said, usage


def _add_message(said: Said, message: Json, *, is_stream: bool) -> None:
    said.text += message.get("content") or ""
    said.reasoning += message.get("reasoning_content") or ""
    for k, call in enumerate(message.get("tool_calls") or ()):
        parts = said.calls.setdefault(call["index"] if is_stream else k, ["", ""])
        parts[0] += call["function"].get("name") or ""
        parts[1] += call["function"].get("arguments") or ""


def _add_logprobs(said: Said, logprobs: Json | None) -> None:
    for each in (logprobs or {}).get("content") or ():
        said.n_logprobs += 1
        said.tokens.append(each["token"])
        top = sorted((other["logprob"] for other in each["top_logprobs"]), reverse=True)
        said.margins.append(top[0] - top[1] if len(top) > 1 else 0.0)


Check = Callable[[Response], None]


def generated(
    *,
    is_chat: bool,
    is_stream: bool,
    n: int = 1,
    max_tokens: int,
    stop: str = "",
    begins: str | None = None,
    form: Callable[[str], object] | None = None,
    must_call: bool = False,
    n_logprobs: int | None = None,
) -> Check:
    """What a chat or a completion must be. `begins` is how its answers begin alone, and so here."""

    def check(response: Response) -> None:
        said, usage = said_of(response, is_chat=is_chat, is_stream=is_stream, n=n)
        if usage is not None:
            assert usage["prompt_tokens"] > 0, usage
            assert usage["completion_tokens"] <= n * max_tokens, usage
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], usage
        for each in said:
            assert not stop or stop not in each.text, f"a stop string leaked: {each.text!r}"
            if begins is not None:
                assert each.text.startswith(begins), f"alone it says {begins!r}, here {each.text!r}"
            if form is not None and each.finish == "stop":
                form(each.text)
            if must_call and each.finish != "length":
                assert each.finish == "tool_calls", each
                assert each.calls, each
            if each.finish == "tool_calls":
                for name, arguments in each.calls.values():
                    assert name, each
                    assert isinstance(json.loads(arguments), dict), each
            if n_logprobs == 0:
                assert not each.n_logprobs, each
            elif n_logprobs and n == 1 and usage is not None and not stop and not each.calls and not each.reasoning:
                assert each.n_logprobs, each

    return check


def infilled(*, is_stream: bool, max_tokens: int) -> Check:
    def check(response: Response) -> None:
        if is_stream:
            events, end = events_of(response)
            if end == "error":
                raise InStream(events[-1]["error"]["message"])
            assert not response.was_cut, "a stream without an end"
            last = events[-1]
        else:
            last = json.loads(response.body)
        assert last["stop"] is True, last
        assert 0 <= last["tokens_predicted"] <= max_tokens, last

    return check


def embedded(n: int, alone: list[float] | None = None) -> Check:
    def check(response: Response) -> None:
        told = json.loads(response.body)
        assert [each["index"] for each in told["data"]] == list(range(n)), told
        for each in told["data"]:
            vector = each["embedding"]
            assert abs(sum(x * x for x in vector) - 1) < 1e-2, "a vector is not of length 1"
            if alone is not None:
                likeness = sum(a * b for a, b in zip(vector, alone, strict=True))
                assert likeness > 0.9995, f"the vector is another than alone: {likeness}"

    return check


def ranked(n: int, alone: list[float] | None = None) -> Check:
    def check(response: Response) -> None:
        told = json.loads(response.body)
        scores = {each["index"]: each["relevance_score"] for each in told["results"]}
        assert sorted(scores) == list(range(n)), told
        if alone is not None:
            assert all(abs(scores[k] - alone[k]) < 2e-3 for k in range(n)), (scores, alone)

    return check


def matches(pattern: str) -> Callable[[str], None]:
    def check(text: str) -> None:
        assert re.fullmatch(pattern, text, re.DOTALL), f"{text!r} is no {pattern}"

    return check


def is_person(text: str) -> None:
    told = json.loads(text)
    assert set(told) == {"name", "age"}, told
    assert isinstance(told["age"], int), told
