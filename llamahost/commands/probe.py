"""What a running server answers, question by question. Knows the API's promises; prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llamahost.commands.exits import Unreachable
from llamahost.commands.remote import Remote, Reply
from llamahost.core.errors import LlamahostError

UNKNOWN = "llamahost-check-no-such-model"
WRONG_KEY = "llamahost-check-wrong-key"
HELLO = [{"role": "user", "content": "Say hello."}]
N_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """A question and its answer."""

    is_well: bool
    what: str
    told: str


class _Wrong(Exception):
    """The answer is not what was promised."""


def probe(remote: Remote, model: str | None, api_key: str | None) -> Iterator[Finding]:
    """Ask all there is to ask; after silence, nothing more. `model` None: the first that it lists."""
    names: list[str] = []

    def models() -> str:
        names.extend(remote.models())
        if not names:
            raise _Wrong("it serves none")
        return ", ".join(names)

    def body(**more: object) -> dict[str, object]:
        return {"model": model or (names[0] if names else ""), "max_tokens": N_TOKENS, "temperature": 0, **more}

    def chat() -> str:
        reply = _well(remote.request("/v1/chat/completions", body(messages=HELLO)))
        return _counted(reply.body, reply.body["choices"][0]["message"]["content"])

    def stream() -> str:
        began = time.monotonic()
        deltas = list(remote.chat(HELLO, body()))
        return f"{len(deltas)} deltas in {time.monotonic() - began:.2f} s"

    def completion() -> str:
        reply = _well(remote.request("/v1/completions", body(prompt="The capital of France is")))
        return _counted(reply.body, reply.body["choices"][0]["text"])

    def wrong_key() -> str:
        reply = remote.request("/v1/models", key=WRONG_KEY)
        if reply.status == 401:
            return "401"
        if reply.status != 200:
            raise _Wrong(f"{reply.status}: {reply.complaint}")
        if api_key:
            raise _Wrong("it is let in, though a key was given here: the server asks for none")
        return "no key is asked for"

    def unknown() -> str:
        reply = remote.request("/v1/completions", {**body(prompt="a"), "model": UNKNOWN, "max_tokens": 1})
        if reply.status == 404:
            return "404"
        if reply.status == 200 and len(names) == 1:
            return f"{names[0]} answers to any name"
        raise _Wrong(f"{reply.status}: {reply.complaint if reply.status != 200 else 'answered'}")

    questions: list[tuple[str, Callable[[], str]]] = [
        ("health", lambda: _status_of(_well(remote.request("/health")))),
        ("ready", lambda: _status_of(_well(remote.request("/ready")))),
        ("models", models),
        ("chat", chat),
        ("stream", stream),
        ("completion", completion),
        ("wrong key", wrong_key),
        ("unknown model", unknown),
    ]
    for what, ask in questions:
        try:
            yield Finding(True, what, ask())
        except Unreachable as error:
            yield Finding(False, what, str(error))
            return
        except (_Wrong, LlamahostError) as error:
            yield Finding(False, what, str(error))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            yield Finding(False, what, f"the answer has not the form that was promised: {type(error).__name__} {error}")


def _well(reply: Reply) -> Reply:
    if reply.status != 200:
        raise _Wrong(f"{reply.status}: {reply.complaint}")
    return reply


def _status_of(reply: Reply) -> str:
    return str(reply.body["status"])


def _counted(body: Any, text: str) -> str:
    usage = body["usage"]
    excerpt = " ".join(str(text).split())[:40]
    return f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens: {excerpt!r}"
