"""What one line of the access log tells of a request. Counts and times, never content."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

from starlette.types import Scope

from llamahost.core.events import Delta, Event, Finished, Started

_KEY = "llamahost.trace"
_PLAIN = "!#$&'()*+,/:;=?@[] "


@dataclass(slots=True)
class Trace:
    """Owned by the task of one request; written as its events go by."""

    request_id: str
    model: str = ""
    replica: str = ""
    n_tries: int = 0
    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    queued_s: float = 0.0
    first_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def note(self, event: Event) -> None:
        """Counted as it comes: a client that leaves, or an error, may be all that follows."""
        if type(event) is Delta:
            self.n_generated += event.n_tokens
        elif isinstance(event, Started):
            self.answered_by(event.model, event.replica, event.n_tries)
            self.n_prompt = max(self.n_prompt, event.n_prompt)
            self.n_cached = max(self.n_cached, event.n_cached)
            self.first_s = self.first_s or self.elapsed_s
        elif isinstance(event, Finished):
            self.queued_s = max(self.queued_s, event.timings.queued_s)

    def answered_by(self, model: str, replica: str, n_tries: int) -> None:
        self.model, self.replica, self.n_tries = model, replica, n_tries

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Who answers, or failed to, after how many tries; nothing before somebody was asked, and no name where none of
        them took it. Names in any script, as URLs write them."""
        if not self.n_tries:
            return []
        tries = (b"x-llamahost-tries", b"%d" % self.n_tries)
        if not self.replica:
            return [tries]
        return [
            (b"x-llamahost-model", _spelled(self.model)),
            (b"x-llamahost-replica", _spelled(self.replica)),
            tries,
        ]

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started


@lru_cache(256)
def _spelled(name: str) -> bytes:
    """Of a model or a replica that there is: no client's own text."""
    return quote(name, safe=_PLAIN).encode()


def open_trace(scope: Scope, request_id: str) -> Trace:
    trace = Trace(request_id)
    scope[_KEY] = trace
    return trace


def trace_of(scope: Scope) -> Trace:
    """The request's own; made by the border before anything else runs."""
    trace = scope[_KEY]
    assert isinstance(trace, Trace)
    return trace
