"""A running server as commands see it: plain requests, and a chat as Deltas. Any OpenAI-compatible one will do."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from llamahost.commands.exits import Unreachable
from llamahost.core.errors import GenerationFailed, InvalidRequest, LlamahostError, Unavailable, network_told
from llamahost.core.events import Delta

T = TypeVar("T")

CONNECT_S = 5.0
ANSWER_S = 600.0  # a long prompt on a slow machine is silent for long


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, and the body: JSON where it is that, otherwise its text."""

    status: int
    body: Any

    @property
    def complaint(self) -> str:
        """What an error body says, in one line."""
        error = self.body.get("error") if isinstance(self.body, Mapping) else None
        message = error.get("message") if isinstance(error, Mapping) else error or self.body
        if str(message).lstrip()[:1] == "<":
            return "a web page; is it an API that is there?"
        return " ".join(str(message).split())[:300]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as a server lists it. `can` is what it may be asked for: words, where the server does not say."""

    id: str
    names: tuple[str, ...]
    can: tuple[str, ...]
    is_ready: bool


def first_that(can: str, models: Sequence[Listed]) -> Listed | None:
    """Whom to ask for this: one that is ready, if there is one."""
    able = [model for model in models if can in model.can]
    return next((model for model in able if model.is_ready), able[0] if able else None)


_HINTS = {
    "certificate verify failed": "SSL_CERT_FILE names a file of those to trust",
    "wrong version number": "it speaks http:// there, as it seems",
    "record layer failure": "it speaks http:// there, as it seems",
    "disconnected without sending": "does it speak https:// there?",
}
"""What may be done where this is why."""


class Remote:
    """Owned by one thread. `url` may be a unix socket, as `unix:/run/llamahost.sock`. Raises Unreachable where nothing
    answers.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = ANSWER_S) -> None:
        place = url.removeprefix("unix:") if url.startswith("unix:") else None
        if url in ("", "unix:"):
            raise InvalidRequest(f"{url!r} names no server; write http://HOST:PORT, or unix:PATH of its socket")
        self.url = url if place or "://" in url else f"http://{url}"
        if place is None:
            self.url = self.url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._client = httpx.Client(
                base_url=self.url if place is None else "http://localhost",
                headers=headers,
                timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
                transport=None if place is None else httpx.HTTPTransport(uds=place),
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidRequest(f"{url} is not a URL: {error}") from error

    def request(self, path: str, body: object = None, *, key: str | None = None) -> Reply:
        """GET, or POST where there is a body."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            answer = self._client.request("GET" if body is None else "POST", path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidRequest(f"{self.url} is not a URL: {error}") from error
        return _reply(answer)

    def models(self) -> list[Listed]:
        """The server's first one first. Raises what its refusal means."""
        reply = self.request("/v1/models")
        if reply.status != 200:
            raise _refusal(reply)
        try:
            return [_listed(model) for model in reply.body["data"]]
        except (KeyError, TypeError) as error:  # whatever it is, no API like OpenAI's
            raise GenerationFailed(f"{self.url}/v1/models answers in another form: {reply.complaint}") from error

    def told(self, path: str, kind: type[T], body: object = None) -> T:
        """The answer as this type; what it does not know is passed over. Raises what the server's refusal means."""
        reply = self.request(path, body)
        if reply.status >= 300:
            raise _refusal(reply)
        try:
            return msgspec.convert(reply.body, kind)
        except msgspec.ValidationError as error:
            raise GenerationFailed(f"{self.url}{path} answers in another form: {error}") from error

    def chat(self, turns: Sequence[Mapping[str, str]], options: Mapping[str, object]) -> Generator[Delta, None, None]:
        """The reply as it is made; closing the generator stops it. Raises what the server's refusal means."""
        body = {**options, "messages": list(turns), "stream": True}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refusal(_reply(answer))
                is_done = False
                for line in answer.iter_lines():
                    name, _, data = line.partition(":")
                    data = data.removeprefix(" ")
                    if name != "data" or not data:
                        continue
                    if data == "[DONE]":
                        is_done = True
                        break
                    yield from self._deltas(data)
                if not is_done:
                    raise GenerationFailed("the stream broke off")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _deltas(self, data: str) -> list[Delta]:
        """What one event brings. Raises GenerationFailed where it is an error, or in another form."""
        try:
            chunk = json.loads(data)
            if chunk.get("error"):
                raise GenerationFailed(Reply(200, chunk).complaint)
            return [each for choice in chunk.get("choices") or () for each in _said(choice)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # whatever it is, no API like OpenAI's
            raise GenerationFailed(f"{self.url} streams in another form: {data:.80}") from error

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        why = network_told(error).rstrip(".")
        hint = next((f"; {advice}" for mark, advice in _HINTS.items() if mark in why), "")
        return Unreachable(f"{self.url} does not answer: {why}{hint}")


def _said(choice: Any) -> Generator[Delta, None, None]:
    delta = choice.get("delta") or {}
    if thought := delta.get("reasoning_content") or delta.get("reasoning"):
        yield Delta(choice["index"], str(thought), "reasoning")
    if text := delta.get("content"):
        yield Delta(choice["index"], str(text))


def _listed(model: Any) -> Listed:
    name, status = str(model["id"]), model.get("status")
    is_ready = not isinstance(status, Mapping) or status.get("value", "ready") == "ready"
    can = tuple(map(str, model.get("capabilities") or ("completion", "chat")))
    return Listed(name, (name, *map(str, model.get("aliases") or ())), can, is_ready)


def _reply(answer: httpx.Response) -> Reply:
    try:
        return Reply(answer.status_code, answer.json())
    except ValueError:
        return Reply(answer.status_code, answer.text)


def _refusal(reply: Reply) -> LlamahostError:
    message = f"the server says {reply.status}: {reply.complaint}"
    return Unavailable(message) if reply.status == 429 or reply.status >= 500 else InvalidRequest(message)
