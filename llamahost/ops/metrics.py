"""Counts and times of everything served, as Prometheus text. Knows requests by their record and models by numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from llamahost.core.observe import RequestRecord
from llamahost.ops.exposition import Count, Family, Kind, Spread, family
from llamahost.ops.process_metrics import ProcessFigures

_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class ModelLoad(NamedTuple):
    """How busy a model is at the moment of a scrape."""

    model: str
    is_ready: bool = False
    n_slots: int = 0
    n_running: int = 0
    n_waiting: int = 0
    n_cells: int = 0
    n_cells_used: int = 0
    n_chars_asked: int = 0  # of prompts, of their memory
    n_chars_tokenised: int = 0  # that it had not
    thread_s: float = 0.0  # of its devices' threads, that its steps have had


_OF_LOADS: tuple[tuple[Kind, str, str, Callable[[ModelLoad], float]], ...] = (
    ("gauge", "model_ready", "1 when the model can answer.", lambda load: load.is_ready),
    ("gauge", "slots", "Requests that can be computed at once.", lambda load: load.n_slots),
    ("gauge", "requests_running", "Answers in slots.", lambda load: load.n_running),
    ("gauge", "requests_waiting", "Answers that wait for a slot.", lambda load: load.n_waiting),
    ("gauge", "kv_cells_total", "Tokens that the KV can hold.", lambda load: load.n_cells),
    ("gauge", "kv_cells_used", "Tokens that the KV holds.", lambda load: load.n_cells_used),
    (
        "counter",
        "prompt_memory_characters_total",
        "Characters of prompts that it was asked for.",
        lambda load: load.n_chars_asked,
    ),
    (
        "counter",
        "prompt_memory_missed_characters_total",
        "Those of them that had to be tokenised.",
        lambda load: load.n_chars_tokenised,
    ),
    (
        "counter",
        "step_seconds_total",
        "Time that its steps had of the threads of its devices.",
        lambda load: load.thread_s,
    ),
)


class Figures(Protocol):
    """Whoever has some of his own, told at each scrape."""

    def lines(self) -> Iterator[str]: ...


class Metrics:
    """Owned by the event loop. An Observer of requests; nothing of it is global, so two can live in one process."""

    content_type = b"text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._known: set[str] = set()
        model = ("model",)
        self._requests = _counts("requests", "Requests by how they ended.", ("model", "outcome"))
        self._routed = _counts(
            "route_requests", "Requests to a route, by the model that answered.", ("model", "outcome", "route")
        )
        self._retries = _counts("retries", "Tries beyond the first, by the model that answered.", model)
        self._prompt = _counts("prompt_tokens", "Prompt tokens, those from a cache among them.", model)
        self._cached = _counts("cached_tokens", "Prompt tokens that a cache held.", model)
        self._generated = _counts("generated_tokens", "Tokens generated.", model)
        self._queue = _spreads("queue", "Waiting for a slot.")
        self._first = _spreads("time_to_first_token", "From arrival to the first token.")
        self._each = _spreads(
            "time_per_output_token", "Between tokens of one answer, a mean each request.", _TOKEN_SECONDS
        )
        self._duration = _spreads("request_duration", "From arrival to the last token.")
        self._responses = _counts("http_responses", "HTTP responses.", ("status",))
        self._figures: list[Figures] = [
            ProcessFigures(),
            self._requests,
            self._routed,
            self._retries,
            self._prompt,
            self._cached,
            self._generated,
            self._queue,
            self._first,
            self._each,
            self._duration,
            self._responses,
        ]

    def add(self, figures: Figures) -> None:
        """Have these told too."""
        self._figures.append(figures)

    def finished(self, record: RequestRecord) -> None:
        """A request is over. What never reached an engine is counted, and does not bend the histograms."""
        # A name that no model has is a client's own text: as labels they would grow without bound.
        if record.outcome != "rejected":
            self._known.add(record.model)
        model = record.model if record.model in self._known else ""
        self._requests.of(model, record.outcome).add()
        if record.route:
            self._routed.of(model, record.outcome, record.route).add()
        if record.n_tries > 1:
            self._retries.of(model).add(record.n_tries - 1)
        if record.outcome == "rejected":
            return
        self._prompt.of(model).add(record.n_prompt)
        self._cached.of(model).add(record.n_cached)
        self._generated.of(model).add(record.n_generated)
        self._queue.of(model).see(record.queued_s)
        self._duration.of(model).see(record.total_s)
        if record.first_s > 0:
            self._first.of(model).see(record.first_s)
        if record.n_generated > 1 and record.generation_s > 0:
            self._each.of(model).see(record.generation_s / (record.n_generated - 1))

    def responded(self, status: int) -> None:
        self._responses.of(status).add()

    def lines(self, loads: Iterable[ModelLoad]) -> Iterator[str]:
        """The text of one scrape, of which the next line may be had later."""
        known: list[ModelLoad] = []
        for load in loads:
            known.append(load)
            self._known.add(load.model)
            yield ""  # to ask after thousands takes its time too
        for kind, name, told, figure in _OF_LOADS:
            rows = (((load.model,), figure(load)) for load in known)
            yield from family(kind, f"llamahost_{name}", told, ("model",), rows)
        for figures in self._figures:
            yield from figures.lines()


def _counts(name: str, told: str, labels: tuple[str, ...]) -> Family[Count]:
    return Family(f"llamahost_{name}_total", told, labels, Count)


def _spreads(name: str, told: str, bounds: tuple[float, ...] = _SECONDS) -> Family[Spread]:
    return Family(f"llamahost_{name}_seconds", told, ("model",), lambda: Spread(bounds))
