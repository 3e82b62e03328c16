"""llama-server's /infill: what stands between a prefix and a suffix, as editors ask for while somebody types.

A request with a `session_id` takes the place of the one before it of that session and key, which ends with a 409:
nobody waits for it any more, and what it computed of the prompt is there for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import orjson
from starlette.types import Receive, Scope, Send

from llamahost.api.affinity import with_headers
from llamahost.api.auth import key_of
from llamahost.api.body import Reading, decode_body, read_body
from llamahost.api.openai_answers import Answer, TimingsAnswer
from llamahost.api.openai_encode import Json, timings_json
from llamahost.api.openai_generation import generation_of
from llamahost.api.openai_logprobs import llama_probs
from llamahost.api.openai_output import output_of
from llamahost.api.openai_types import Body, Name
from llamahost.api.problems import NotServed, Superseded, problem_of
from llamahost.api.service import Service
from llamahost.api.sse import EventStream, fold, send_json
from llamahost.api.trace import trace_of
from llamahost.core.errors import InvalidRequest, NotAble
from llamahost.core.events import Delta, Event, Finished, Started
from llamahost.core.messages import CompletionRequest, Snippet
from llamahost.fleet.settings.manifest import ServerSettings

MAX_SNIPPETS = 4096
MAX_FIELDS = 64


class ExtraBody(msgspec.Struct, kw_only=True):
    """Of another file."""

    text: str
    filename: Name | None = None


class InfillBody(Body, kw_only=True):
    """POST /infill. `prompt` is what stands between the prefix and the cursor, as in the line that is typed.

    Of the answer `response_fields` alone are told, each under its own path, as `timings/prompt_n`.
    """

    input_prefix: str
    input_suffix: str
    input_extra: list[ExtraBody] | None = None
    prompt: str | None = None
    response_fields: Annotated[list[Name], msgspec.Meta(max_length=MAX_FIELDS)] | None = None


class InfillAnswer(Answer, forbid_unknown_fields=False):
    """llama-server's, of what there is here. `truncated`: what stands around the gap was too long, and was cut.

    All of it, but where `response_fields` chose: those are told under their own paths.
    """

    index: int | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    tokens: list[int] | msgspec.UnsetType = msgspec.UNSET
    id_slot: int | msgspec.UnsetType = msgspec.UNSET
    stop: bool | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET
    tokens_predicted: int | msgspec.UnsetType = msgspec.UNSET
    tokens_evaluated: int | msgspec.UnsetType = msgspec.UNSET
    tokens_cached: int | msgspec.UnsetType = msgspec.UNSET
    truncated: bool | msgspec.UnsetType = msgspec.UNSET
    has_new_line: bool | msgspec.UnsetType = msgspec.UNSET
    stop_type: str | msgspec.UnsetType = msgspec.UNSET
    stopping_word: str | msgspec.UnsetType = msgspec.UNSET
    timings: TimingsAnswer | msgspec.UnsetType = msgspec.UNSET
    completion_probabilities: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


INFILL = msgspec.json.Decoder(InfillBody)


def parse_infill(body: InfillBody) -> CompletionRequest:
    """Raises InvalidRequest with the field's path."""
    if body.n is not None and body.n != 1:
        raise InvalidRequest("one gap is filled in once: `n` must be 1", param="n")
    if len(body.input_extra or ()) > MAX_SNIPPETS:
        raise InvalidRequest(f"at most {MAX_SNIPPETS} texts of other files", param="input_extra")
    return CompletionRequest(
        prompts=(body.input_prefix + (body.prompt or ""),),
        model=body.model or "",
        suffix=body.input_suffix,
        snippets=tuple(Snippet(each.text, each.filename or "") for each in body.input_extra or ()),
        output=output_of(body),
        generation=generation_of(body, None),
    )


class InfillEncoder:
    """Owned by the task of one request. Both forms; the stream's has no [DONE]. `fields` are told of the end.

    `probs`: what `n_probs` asked for is told as the one or the other, with each piece of a stream or of all at the end.
    """

    def __init__(self, fields: Sequence[str] = (), *, probs: Literal["prob", "logprob"] | None = None) -> None:
        self._fields = fields
        self._probs = probs
        self._told_probs: list[Json] = []
        self._n_told = 0  # of them, with the pieces of a stream
        self._model = ""
        self._is_cut = False
        self._texts: list[str] = []
        self._last: Json = {}

    def feed(self, event: Event) -> bytes:
        if type(event) is Delta:
            return self._piece(event)
        if type(event) is Started:
            self._model, self._is_cut = event.model, event.is_cut
        if type(event) is Finished:
            self._finish(event)
        return b""

    def _piece(self, event: Delta) -> bytes:
        if self._probs is not None:
            self._told_probs += llama_probs(event.logprobs, is_prob=self._probs == "prob")
        if not event.text:
            return b""
        self._texts.append(event.text)
        probs: Json = {}
        if self._probs is not None:
            probs = {"completion_probabilities": self._told_probs[self._n_told :]}
            self._n_told = len(self._told_probs)
        return _data({"index": 0, "content": event.text, "tokens": [], "stop": False, "id_slot": -1, **probs})

    def end(self) -> bytes:
        return _data(self._chosen({**self._last, "content": ""}))

    def fail(self, error: Exception) -> bytes:
        return b"data: " + problem_of(error).body + b"\n\n"

    def body(self) -> bytes:
        probs: Json = {"completion_probabilities": self._told_probs} if self._probs is not None else {}
        return orjson.dumps(self._chosen({**self._last, **probs}))

    def _chosen(self, told: Json) -> Json:
        if not self._fields:
            return told
        found = {path: _at(told, path) for path in self._fields}
        return {path: value for path, value in found.items() if value is not None}

    def _finish(self, event: Finished) -> None:
        usage, text = event.usage, "".join(self._texts)
        self._last = {
            "index": 0,
            "content": text,
            "tokens": [],
            "id_slot": -1,
            "stop": True,
            "model": self._model,
            "tokens_predicted": usage.n_generated,
            "tokens_evaluated": usage.n_prompt,
            "tokens_cached": usage.n_total,
            "truncated": self._is_cut,
            "has_new_line": "\n" in text,
            "stop_type": "limit" if event.reason == "length" else "word" if event.stop else "eos",
            "stopping_word": event.stop,
            "timings": timings_json(usage, [event.timings]),
        }


def _at(told: object, path: str) -> object:
    """What stands there; None where nothing does."""
    for key in path.split("/"):
        told = told.get(key) if isinstance(told, dict) else None
    return told


def _data(told: Json) -> bytes:
    return b"data: " + orjson.dumps(told) + b"\n\n"


Latest = dict[tuple[bytes, str], asyncio.Event]
"""Of each session the event that ends its request, while it has one."""


@dataclass(frozen=True, slots=True)
class InfillRoute:
    """One ASGI callable."""

    service: Service
    settings: ServerSettings
    reading: Reading
    latest: Latest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = trace_of(scope)
        data = await read_body(scope, receive, self.settings.max_body_bytes, self.settings.stall_s)
        request, body = await self.reading.run(lambda: _understood(data), len(data))
        trace.model = request.model
        session = request.generation.session_id  # headers name conversations, in which nothing takes another's place
        request = with_headers(request, scope)
        key = key_of(scope) or b"", session
        replaced = asyncio.Event()
        if session:
            if (before := self.latest.get(key)) is not None:
                before.set()
            self.latest[key] = replaced
        events = until_set(self.service.complete(request), replaced) if session else self.service.complete(request)
        probs: Literal["prob", "logprob"] = "prob" if body.post_sampling_probs else "logprob"
        encoder = InfillEncoder(body.response_fields or (), probs=probs if body.has_probs else None)
        try:
            if body.stream:
                stream = EventStream(
                    events,
                    encoder,
                    note=trace.note,
                    ping_s=self.settings.ping_s,
                    stall_s=self.settings.stall_s,
                )
                await stream(receive, send)
                return
            await fold(receive, events, trace.note, encoder.feed)
        except NotAble as error:
            raise NotServed(str(error)) from error
        finally:
            if self.latest.get(key) is replaced:
                del self.latest[key]
        await send_json(send, encoder.body())


def _understood(data: bytes) -> tuple[CompletionRequest, InfillBody]:
    body = decode_body(data, INFILL)
    return parse_infill(body), body


async def until_set(events: AsyncGenerator[Event, None], replaced: asyncio.Event) -> AsyncGenerator[Event, None]:
    """The same events, until that is set: then Superseded is raised, and the source is closed."""
    waiting = asyncio.create_task(replaced.wait())
    step: asyncio.Future[Event] | None = None
    try:
        while True:
            step = asyncio.ensure_future(anext(events))
            await asyncio.wait((step, waiting), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                raise Superseded("a later request of this session has taken its place")
            try:
                event = step.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        for task in (step, waiting):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait((task,))
        if step is not None and not step.cancelled():
            step.exception()  # of one that failed as this was left, nobody is told any more
        await events.aclose()
