"""What is told of a request when it is over, and of models as they come and go. Observers make metrics and a log."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["chat", "completion", "embedding", "rerank"]
Outcome = Literal["stop", "length", "tool", "cancelled", "error", "rejected"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that this task serves: set by whoever received it, and empty where the library is called directly."""


class Asker(Protocol):
    """Whoever received a request, and is to know who was asked for it also where no answer came of it."""

    def answered_by(self, model: str, replica: str, n_tries: int) -> None:
        """`replica` is the last of `n_tries`; empty where none of them had room, or was there."""
        ...


asker: ContextVar[Asker | None] = ContextVar("asker", default=None)
"""Set and empty as `request_id` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """A request that is over, well or not. Tokens are summed over its answers, but each prompt counts once.

    `model` is the name of the model that answered, or the name asked for when none did. `outcome` is `rejected` when
    nothing was computed for it, `error` when it failed later (its deadline among that), `cancelled` when its reader
    left, and otherwise the reason of its first answer. Seconds: `queued_s` waiting for a slot, `first_s` from arrival
    to the first event (0 when there was none), `generation_s` from the first token to the last, `total_s` of it all.
    `error` is the class of what ended it, never its words: they may quote what was asked. `route` is the name that
    stood for several models, if one did; `replica` answered, the last of `n_tries` that were asked.
    """

    model: str
    kind: Kind
    id: str = ""
    error: str = ""
    route: str = ""
    replica: str = ""
    n_tries: int = 1
    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    queued_s: float = 0.0
    first_s: float = 0.0
    generation_s: float = 0.0
    total_s: float = 0.0
    outcome: Outcome = "stop"


@dataclass(frozen=True, slots=True)
class ModelChanged:
    """A model, or one of its replicas where `replica` is not empty, is in another state now."""

    model: str
    replica: str
    state: str  # unloaded, pulling, loading, ready, failed, draining
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a replica's load is, in [0, 1]; told about each hundredth. Where `replica` is empty, the model's file is
    being fetched."""

    model: str
    replica: str
    fraction: float


FleetEvent = ModelChanged | LoadProgress


class Observer(Protocol):
    """Told on the loop of every request, exactly once; returns at once and does not raise."""

    def finished(self, record: RequestRecord) -> None: ...
