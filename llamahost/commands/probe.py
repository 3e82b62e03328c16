"""What a running server answers, question by question. Knows the API's promises; prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llamahost.commands.exits import Unreachable
from llamahost.commands.remote import Listed, Remote, Reply, first_that
from llamahost.commands.words import counted
from llamahost.core.errors import LlamahostError

UNKNOWN = "llamahost-check-no-such-model"
WRONG_KEY = "llamahost-check-wrong-key"
HELLO = [{"role": "user", "content": "Say hello."}]
N_TOKENS = 8
UNKNOWNS: dict[str, tuple[str, dict[str, object]]] = {
    "completion": ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    "embedding": ("/v1/embeddings", {"input": "a"}),
    "rerank": ("/v1/rerank", {"query": "a", "documents": ["a"]}),
}
"""By what a model does: the least that can be asked of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A question and its answer."""

    is_well: bool
    what: str
    told: str


class _Wrong(Exception):
    """The answer is not what was promised."""


def probe(remote: Remote, model: str | None, api_key: str | None) -> Iterator[Finding]:
    """Ask all there is to ask; after silence, nothing more. `model` None: for each thing the first that does it."""
    listed: list[Listed] = []

    def models() -> str:
        listed.extend(remote.models())
        if not listed:
            raise _Wrong("it serves none")
        return ", ".join(each.id for each in listed)

    def able(kind: str) -> str | None:
        """Who is asked for this; of a server that lists nothing, or not the model, words are asked for."""
        known = [each for each in listed if model is None or model in each.names]
        if not known:
            return (model or "") if kind == "completion" else None
        found = first_that(kind, known)
        return None if found is None else model or found.id

    def body(**more: object) -> dict[str, object]:
        return {"model": able("completion") or "", "max_tokens": N_TOKENS, "temperature": 0, **more}

    def chat() -> str:
        reply = _well(remote.request("/v1/chat/completions", body(messages=HELLO)))
        return _counted(reply.body, reply.body["choices"][0]["message"]["content"])

    def stream() -> str:
        began = time.monotonic()
        deltas = list(remote.chat(HELLO, body()))
        return f"{counted(len(deltas), 'delta')} in {time.monotonic() - began:.2f} s"

    def completion() -> str:
        reply = _well(remote.request("/v1/completions", body(prompt="The capital of France is")))
        return _counted(reply.body, reply.body["choices"][0]["text"])

    def embeddings() -> str:
        reply = _well(remote.request("/v1/embeddings", {"model": able("embedding"), "input": "Hello"}))
        return f"{len(reply.body['data'][0]['embedding'])} dimensions"

    def rerank() -> str:
        asked = {"model": able("rerank"), "query": "Hello", "documents": ["Hi", "Bye"]}
        return f"{len(_well(remote.request('/v1/rerank', asked)).body['results'])} scores"

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
        path, fields = next((UNKNOWNS[kind] for kind in UNKNOWNS if able(kind) is not None), UNKNOWNS["completion"])
        reply = remote.request(path, {**fields, "model": UNKNOWN})
        if reply.status == 404:
            return "404"
        if reply.status == 200 and len(listed) == 1:
            return f"{listed[0].id} answers to any name"
        raise _Wrong(f"{reply.status}: {reply.complaint if reply.status != 200 else 'answered'}")

    words = [("chat", chat), ("stream", stream), ("completion", completion)]
    by_kind = {"completion": words, "embedding": [("embeddings", embeddings)], "rerank": [("rerank", rerank)]}

    def questions() -> Iterator[tuple[str, Callable[[], str]]]:
        yield "health", lambda: _status_of(_well(remote.request("/health")))
        yield "ready", lambda: _status_of(_well(remote.request("/ready")))
        yield "models", models
        for kind, those in by_kind.items():
            if able(kind) is not None:
                yield from those
        yield "wrong key", wrong_key
        yield "unknown model", unknown

    for what, ask in questions():
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
