"""Events into OpenAI's JSON: whole bodies and stream chunks. Knows no HTTP.

A chunk is a prefix made once an answer, the text escaped, and a suffix: about 1 µs. `timings` are llama-server's.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from typing import Literal

import orjson

from llamahost.api.openai_logprobs import LegacyLogprobs, chat_logprobs, llama_probs
from llamahost.api.problems import problem_of
from llamahost.api.sse import DONE
from llamahost.core.events import (
    Delta,
    Echoed,
    Event,
    Finished,
    Progress,
    Reason,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)

Json = dict[str, object]
Probs = Literal["logprob", "prob"]
"""How llama-server's form of probabilities gives them."""

_FINISH: dict[Reason, str] = {"stop": "stop", "length": "length", "tool": "tool_calls", "cancelled": "stop"}


@dataclass(frozen=True, slots=True)
class Frame:
    """What all chunks of one answer share. `n` is how many answers a prompt gets."""

    kind: Literal["chat", "completion"]
    model: str
    n: int = 1
    fingerprint: str = ""
    include_usage: bool = False
    is_of_functions: bool = False  # calls are told in the old form: one, as `function_call`
    probs: Probs | None = None  # logprobs are told in llama-server's form
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @staticmethod
    def new(
        kind: Literal["chat", "completion"],
        model: str,
        *,
        n: int = 1,
        fingerprint: str = "",
        include_usage: bool = False,
        is_of_functions: bool = False,
        probs: Probs | None = None,
    ) -> Frame:
        prefix = "chatcmpl-" if kind == "chat" else "cmpl-"
        id_ = prefix + os.urandom(14).hex()
        return Frame(kind, model, n, fingerprint, include_usage, is_of_functions, probs, id_)

    def content(self, tokens: tuple[TokenLogprob, ...]) -> list[Json]:
        """Logprobs as a list of tokens: of a chat, or in llama-server's form."""
        return chat_logprobs(tokens) if self.probs is None else llama_probs(tokens, is_prob=self.probs == "prob")

    def finish(self, reason: Reason) -> str:
        return "function_call" if reason == "tool" and self.is_of_functions else _FINISH[reason]

    def head(self, object_: str, model: str) -> Json:
        """The fields that stand before `choices`, and after."""
        return {
            "id": self.id,
            "object": object_,
            "created": self.created,
            "model": model or self.model,
            "system_fingerprint": self.fingerprint,
        }


@dataclass(slots=True)
class Totals:
    """Sums over the answers of a request: a prompt counts once, whatever n is."""

    n_answers_each: int
    usages: dict[int, Usage] = field(default_factory=dict)
    timings: list[Timings] = field(default_factory=list)

    def add(self, event: Finished) -> None:
        self.usages[event.index] = event.usage
        self.timings.append(event.timings)

    @property
    def usage(self) -> Usage:
        firsts = [usage for index, usage in self.usages.items() if index % self.n_answers_each == 0]
        return Usage(
            n_prompt=sum(usage.n_prompt for usage in firsts),
            n_cached=sum(usage.n_cached for usage in firsts),
            n_generated=sum(usage.n_generated for usage in self.usages.values()),
            n_reasoning=sum(usage.n_reasoning for usage in self.usages.values()),
        )

    def json(self) -> Json:
        """`usage` and `timings`."""
        usage = self.usage
        return {"usage": usage_json(usage), "timings": timings_json(usage, self.timings)}


def usage_json(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.n_prompt,
        "completion_tokens": usage.n_generated,
        "total_tokens": usage.n_total,
        "prompt_tokens_details": {"cached_tokens": usage.n_cached},
        "completion_tokens_details": {"reasoning_tokens": usage.n_reasoning},
    }


def timings_json(usage: Usage, timings: list[Timings]) -> Json:
    """llama-server's names. Answers run side by side, so the longest time stands for all."""
    prompt_s = max((t.prompt_s for t in timings), default=0.0)
    generation_s = max((t.generation_s for t in timings), default=0.0)
    n_computed = usage.n_prompt - usage.n_cached
    return {
        "cache_n": usage.n_cached,
        "prompt_n": n_computed,
        "prompt_ms": prompt_s * 1000,
        "prompt_per_token_ms": prompt_s * 1000 / n_computed if n_computed else 0.0,
        "prompt_per_second": n_computed / prompt_s if prompt_s else 0.0,
        "predicted_n": usage.n_generated,
        "predicted_ms": generation_s * 1000,
        "predicted_per_token_ms": generation_s * 1000 / usage.n_generated if usage.n_generated else 0.0,
        "predicted_per_second": usage.n_generated / generation_s if generation_s else 0.0,
    }


class ChunkEncoder:
    """Owned by the task of one request. The stream form of both routes; the first event of an answer is Started."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._totals = Totals(frame.n)
        self._model = frame.model
        self._prefixes: dict[int, bytes] = {}  # data: {... "choices":[{"index":0,<what differs>
        self._legacy: dict[int, LegacyLogprobs] = {}
        self._n_calls: dict[int, int] = {}
        self._is_chat = frame.kind == "chat"
        usage = b',"usage":null' if frame.include_usage else b""
        self._close = b"}]" + usage + b"}\n\n"
        self._text_end = (
            b'},"logprobs":null,"finish_reason":null' if self._is_chat else (b',"logprobs":null,"finish_reason":null')
        )
        self._text_end += self._close
        self._text_key = b'"delta":{"content":' if self._is_chat else b'"text":'

    def feed(self, event: Event) -> bytes:
        if type(event) is Delta:
            if event.channel == "text" and not event.logprobs and event.measured is None:
                if not event.text:
                    return b""
                text = orjson.dumps(event.text)
                return self._prefixes[event.index] + self._text_key + text + self._text_end
            return self._rich(event)
        if type(event) is Started:
            return self._start(event)
        if type(event) is Echoed:
            return self._echo(event)
        if type(event) is Progress:
            return self._progress(event)
        assert type(event) is Finished
        return self._finish(event)

    def end(self) -> bytes:
        if not self._frame.include_usage:
            return DONE
        last = self._frame.head(self._object, self._model)
        return b"data: " + orjson.dumps({**last, "choices": [], **self._totals.json()}) + b"\n\n" + DONE

    def fail(self, error: Exception) -> bytes:
        return b"data: " + problem_of(error, self._frame.id).body + b"\n\n"

    @property
    def _object(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _start(self, event: Started) -> bytes:
        self._model = event.model or self._model
        head = orjson.dumps(self._frame.head(self._object, self._model))
        self._prefixes[event.index] = b'data: %b,"choices":[{"index":%d,' % (head[:-1], event.index)
        if not self._is_chat:
            return b""
        return self._chunk(event.index, {"delta": {"role": "assistant", "content": ""}})

    def _progress(self, event: Progress) -> bytes:
        told = {
            "total": event.n_prompt,
            "cache": event.n_cached,
            "processed": event.n_processed,
            "time_ms": event.elapsed_s * 1000,
        }
        return self._chunk(
            event.index, {"delta": {}} if self._is_chat else {"text": ""}, after={"prompt_progress": told}
        )

    def _echo(self, event: Echoed) -> bytes:
        """Only completions have one."""
        if not event.logprobs:
            return self._chunk(event.index, {"text": event.text})
        legacy = self._legacy.setdefault(event.index, LegacyLogprobs())
        legacy.echo(event)
        return self._chunk(event.index, {"text": event.text}, legacy.take())

    def _rich(self, event: Delta) -> bytes:
        """A delta with logprobs, timings, reasoning or a call of a tool."""
        if not (event.text or event.logprobs or event.call_id):
            return b""
        logprobs: Json | None = None
        after: Json | None = None
        if event.measured is not None:
            after = {"timings": timings_json(event.measured.usage, [event.measured.timings])}
        if not self._is_chat:
            if event.logprobs and self._frame.probs is not None:
                logprobs = {"content": self._frame.content(event.logprobs)}
            elif event.logprobs:
                legacy = self._legacy.setdefault(event.index, LegacyLogprobs())
                legacy.add(event.logprobs)
                logprobs = legacy.take()
            return self._chunk(event.index, {"text": event.text}, logprobs, after=after)
        if event.logprobs:
            logprobs = {"content": self._frame.content(event.logprobs), "refusal": None}
        match event.channel:
            case "text":
                delta: Json = {"content": event.text}
            case "reasoning":
                delta = {"reasoning_content": event.text}
            case "tool":
                delta = self._called(event)
        return self._chunk(event.index, {"delta": delta}, logprobs, after=after)

    def _called(self, event: Delta) -> Json:
        """`call_id` comes with the first delta of each call alone."""
        if self._frame.is_of_functions:
            name: Json = {"name": event.call_name} if event.call_id else {}
            return {"function_call": {**name, "arguments": event.text}}
        return {"tool_calls": [self._call(event)]}

    def _call(self, event: Delta) -> Json:
        n = self._n_calls.get(event.index, 0) + (1 if event.call_id else 0)
        self._n_calls[event.index] = n
        if not event.call_id:
            return {"index": n - 1, "function": {"arguments": event.text}}
        function = {"name": event.call_name, "arguments": event.text}
        return {"index": n - 1, "id": event.call_id, "type": "function", "function": function}

    def _finish(self, event: Finished) -> bytes:
        self._totals.add(event)
        body: Json = {"delta": {}} if self._is_chat else {"text": ""}
        timings: Json = {}
        if not self._frame.include_usage:
            timings = {"timings": timings_json(event.usage, [event.timings])}
        return self._chunk(event.index, body, None, self._frame.finish(event.reason), timings)

    def _chunk(
        self, index: int, body: Json, logprobs: Json | None = None, finish: str | None = None, after: Json | None = None
    ) -> bytes:
        choice = orjson.dumps({**body, "logprobs": logprobs, "finish_reason": finish})
        close = self._close
        if after:
            if self._frame.include_usage:
                after = {"usage": None, **after}
            close = b"}]," + orjson.dumps(after)[1:] + b"\n\n"
        return self._prefixes[index] + choice[1:-1] + close


@dataclass(slots=True)
class _Answer:
    """One choice as it grows."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, list[str]]] = field(default_factory=list)  # id, name, pieces of the arguments
    logprobs: list[TokenLogprob] = field(default_factory=list)
    legacy: LegacyLogprobs | None = None  # of completions alone
    reason: Reason = "stop"

    @property
    def mean_logprob(self) -> float:
        n = len(self.logprobs)
        return sum(token.logprob for token in self.logprobs) / n if n else -math.inf

    def echo(self, event: Echoed) -> None:
        self.texts.append(event.text)
        if self.legacy is not None:
            self.legacy.echo(event)

    def feed(self, event: Delta) -> None:
        self.logprobs.extend(event.logprobs)
        if self.legacy is not None and event.logprobs:
            self.legacy.add(event.logprobs)
        match event.channel:
            case "text":
                self.texts.append(event.text)
            case "reasoning":
                self.reasoning.append(event.text)
            case "tool":
                if event.call_id or not self.calls:
                    self.calls.append((event.call_id, event.call_name, []))
                self.calls[-1][2].append(event.text)


class BodyEncoder:
    """Owned by the task of one request. The whole form: a fold over the same events."""

    def __init__(self, frame: Frame, *, has_logprobs: bool, n_kept: int | None = None) -> None:
        self._frame = frame
        self._has_logprobs = has_logprobs
        self._n_kept = n_kept or frame.n
        self._model = frame.model
        self._totals = Totals(frame.n)
        self._answers: dict[int, _Answer] = {}

    def feed(self, event: Event) -> None:
        match event:
            case Started():
                self._model = event.model or self._model
                is_legacy = self._frame.kind == "completion" and self._frame.probs is None
                legacy = LegacyLogprobs() if is_legacy else None
                self._answers[event.index] = _Answer(legacy=legacy)
            case Delta():
                self._answers[event.index].feed(event)
            case Echoed():
                self._answers[event.index].echo(event)
            case Finished():
                self._answers[event.index].reason = event.reason
                self._totals.add(event)

    def body(self) -> bytes:
        is_chat = self._frame.kind == "chat"
        choice = self._chat_choice if is_chat else self._text_choice
        head = self._frame.head("chat.completion" if is_chat else "text_completion", self._model)
        choices = [choice(index, answer) for index, answer in enumerate(self._kept())]
        return orjson.dumps({**head, "choices": choices, **self._totals.json()})

    def _kept(self) -> list[_Answer]:
        """Of each prompt's answers the likeliest, where more were made than asked for."""
        answers = [self._answers[index] for index in sorted(self._answers)]
        n_made = self._frame.n
        if self._n_kept == n_made:
            return answers
        kept: list[_Answer] = []
        for begin in range(0, len(answers), n_made):
            ranked = sorted(answers[begin : begin + n_made], key=lambda answer: answer.mean_logprob, reverse=True)
            kept += ranked[: self._n_kept]
        return kept

    def _chat_choice(self, index: int, answer: _Answer) -> Json:
        text = "".join(answer.texts)
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = "".join(answer.reasoning)
        if answer.calls:
            message["content"] = text or None
            functions: list[Json] = [{"name": name, "arguments": "".join(pieces)} for _, name, pieces in answer.calls]
            if self._frame.is_of_functions:
                message["function_call"] = functions[0]
            else:
                message["tool_calls"] = [
                    {"id": id_, "type": "function", "function": function}
                    for (id_, _, _), function in zip(answer.calls, functions, strict=True)
                ]
        logprobs: Json | None = None
        if self._has_logprobs:
            logprobs = {"content": self._frame.content(tuple(answer.logprobs)), "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self._frame.finish(answer.reason),
        }

    def _text_choice(self, index: int, answer: _Answer) -> Json:
        return {
            "index": index,
            "text": "".join(answer.texts),
            "logprobs": self._text_logprobs(answer) if self._has_logprobs else None,
            "finish_reason": _FINISH[answer.reason],
        }

    def _text_logprobs(self, answer: _Answer) -> Json:
        if answer.legacy is not None:
            return answer.legacy.take()
        return {"content": self._frame.content(tuple(answer.logprobs))}
