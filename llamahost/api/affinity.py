"""What headers say of a request beside its body: whose conversation it is part of, how soon it must be answered, and
whether it waits for a model that is not loaded yet.

Headers are asked before the body's own fields: a page or a proxy puts the narrowest name it has there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from starlette.types import Scope

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.vectors import EmbedRequest, RerankRequest

G = TypeVar("G", ChatRequest, CompletionRequest)
E = TypeVar("E", EmbedRequest, RerankRequest)

SESSION_HEADERS = (
    b"x-session-id",
    b"session_id",  # Codex
    b"session-id",
    b"x-openwebui-chat-id",
    b"x-chat-id",
    b"x-conversation-id",
    b"x-claude-code-session-id",
    b"x-opencode-session",
    b"x-amp-thread-id",
    b"x-litellm-session-id",
    b"x-grok-conv-id",
)
"""The first that is there counts."""

USER_HEADERS = (b"x-openwebui-user-id", b"x-user-id")
PRIORITY_HEADERS = (b"x-priority", b"x-llamahost-priority")  # `priority` itself is of browsers: RFC 9218

LOADING_HEADERS = (b"x-when-loading",)
_HEARD = frozenset((*SESSION_HEADERS, *USER_HEADERS, *PRIORITY_HEADERS, *LOADING_HEADERS))
WHEN_LOADING = {"wait": True, "refuse": False, "auto": None}

MAX_KEY = 256
"""Characters of a key that count."""

PRIORITIES = {"interactive": 0, "batch": -1000}


def with_headers(request: G, scope: Scope) -> G:
    """The request with what its headers say. Raises InvalidRequest."""
    if _says_nothing(scope):
        return request
    session, user = _first(scope, SESSION_HEADERS), _first(scope, USER_HEADERS)
    priority, loading = _first(scope, PRIORITY_HEADERS), _first(scope, LOADING_HEADERS)
    said = request.generation
    generation = replace(
        said,
        session_id=session or said.session_id,
        user=user or said.user,
        priority=priority_of(priority, "X-Priority") if priority else said.priority,
        waits=_waits(loading),
    )
    return replace(request, generation=generation)


def with_priority(request: E, scope: Scope) -> E:
    """The same of a request that goes on with no conversation: of a weighted split, all of one go the same way."""
    if _says_nothing(scope):
        return request
    session, user = _first(scope, SESSION_HEADERS), _first(scope, USER_HEADERS)
    priority, loading = _first(scope, PRIORITY_HEADERS), _first(scope, LOADING_HEADERS)
    return replace(
        request,
        user=session or user or request.user,
        priority=priority_of(priority, "X-Priority") if priority else request.priority,
        waits=_waits(loading),
    )


def priority_of(given: int | str | None, param: str) -> int:
    """Higher goes first. By a word, or by a number as vLLM has it: the lower, the sooner."""
    if given is None:
        return 0
    if isinstance(given, str):
        word = given.strip().lower()
        if word in PRIORITIES:
            return PRIORITIES[word]
        if not word.removeprefix("-").isdecimal() or len(word) > 10:
            raise InvalidRequest(f"`{param}` must be interactive, batch or a number, not {given[:40]!r}", param=param)
        given = int(word)
    if not -(2**31) < given < 2**31:
        raise InvalidRequest(f"`{param}` must be between -2147483647 and 2147483647, not {given}", param=param)
    return -given


def _waits(word: str) -> bool | None:
    """As the manifest's `when_loading`."""
    given = word.strip().lower() or "auto"
    if given not in WHEN_LOADING:
        raise InvalidRequest(f"`X-When-Loading` must be wait or refuse, not {word[:40]!r}", param="X-When-Loading")
    return WHEN_LOADING[given]


def key_of(*given: str | None) -> str:
    """The first that is there, of bounded length."""
    for each in given:
        if each:
            return each[:MAX_KEY]
    return ""


def _says_nothing(scope: Scope) -> bool:
    return _HEARD.isdisjoint([name for name, _ in scope["headers"]])


def _first(scope: Scope, names: tuple[bytes, ...]) -> str:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name in names:
        for key, value in headers:
            if key == name and value:
                return value.decode("latin-1")[:MAX_KEY]
    return ""
