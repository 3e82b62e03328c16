"""Counts and times of everything served, as Prometheus text. Knows requests by their record and models by numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llamahost.core.observe import RequestRecord

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)

N_TOGETHER = 32
"""Requests that are counted at once, in half a millisecond, where nobody asks for the figures before."""


class ModelLoad(NamedTuple):
    """How busy a model is at the moment of a scrape. A named tuple, since a scrape may make thousands."""

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


_OF_LOADS: tuple[tuple[type[GaugeMetricFamily | CounterMetricFamily], str, str, Callable[[ModelLoad], float]], ...] = (
    (GaugeMetricFamily, "model_ready", "1 when the model can answer.", lambda load: load.is_ready),
    (GaugeMetricFamily, "slots", "Requests that can be computed at once.", lambda load: load.n_slots),
    (GaugeMetricFamily, "requests_running", "Answers in slots.", lambda load: load.n_running),
    (GaugeMetricFamily, "requests_waiting", "Answers that wait for a slot.", lambda load: load.n_waiting),
    (GaugeMetricFamily, "kv_cells_total", "Tokens that the KV can hold.", lambda load: load.n_cells),
    (GaugeMetricFamily, "kv_cells_used", "Tokens that the KV holds.", lambda load: load.n_cells_used),
    (CounterMetricFamily, "prompt_memory_characters", "Characters of prompts that it was asked for.",
     lambda load: load.n_chars_asked),
    (CounterMetricFamily, "prompt_memory_missed_characters", "Those of them that had to be tokenised.",
     lambda load: load.n_chars_tokenised),
    (CounterMetricFamily, "step_seconds", "Time that its steps had of the threads of its devices.",
     lambda load: load.thread_s),
)  # fmt: skip


class _Loads(Collector):
    """What somebody else knows: as it stands at this scrape, so that a model that is gone leaves no number behind."""

    def __init__(self) -> None:
        self.loads: tuple[ModelLoad, ...] = ()

    def collect(self) -> Iterator[Metric]:
        for kind, name, told, figure in _OF_LOADS:
            family = kind(f"llamahost_{name}", told, labels=["model"])
            for load in self.loads:
                family.add_metric([load.model], figure(load))
            yield family


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfModel:
    """One model's, found once: to find one by its labels takes longer than to count."""

    prompt: Counter
    cached: Counter
    generated: Counter
    queue: Histogram
    duration: Histogram


class Metrics:
    """Owned by the event loop. An Observer of requests; its registry is its own, so two can live in one process."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._of_outcomes: dict[tuple[str, str], Counter] = {}
        self._of_models: dict[str, _OfModel] = {}
        self._over: list[RequestRecord] = []  # not counted yet
        self._n_of_statuses: dict[int, int] = {}  # responses, the same
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)  # process_resident_memory_bytes and its like
        model = ("model",)
        registry = self.registry
        self._requests = Counter(
            "llamahost_requests", "Requests by how they ended.", ("model", "outcome"), registry=registry
        )
        self._routed = Counter(
            "llamahost_route_requests",
            "Requests to a route, by the model that answered.",
            ("route", "model", "outcome"),
            registry=registry,
        )
        self._retries = Counter(
            "llamahost_retries", "Tries beyond the first, by the model that answered.", model, registry=registry
        )
        self._prompt = Counter(
            "llamahost_prompt_tokens", "Prompt tokens, those from a cache among them.", model, registry=registry
        )
        self._cached = Counter("llamahost_cached_tokens", "Prompt tokens that a cache held.", model, registry=registry)
        self._generated = Counter("llamahost_generated_tokens", "Tokens generated.", model, registry=registry)
        self._queue = Histogram(
            "llamahost_queue_seconds", "Waiting for a slot.", model, buckets=_SECONDS, registry=registry
        )
        self._first = Histogram(
            "llamahost_time_to_first_token_seconds",
            "From arrival to the first token.",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._each = Histogram(
            "llamahost_time_per_output_token_seconds",
            "Between tokens of one answer, a mean each request.",
            model,
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self._duration = Histogram(
            "llamahost_request_duration_seconds",
            "From arrival to the last token.",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._loads = _Loads()
        registry.register(self._loads)
        self._responses = Counter("llamahost_http_responses", "HTTP responses.", ("status",), registry=registry)

    def finished(self, record: RequestRecord) -> None:
        """A request is over. It is counted together with others, which takes a fraction of the time."""
        self._over.append(record)
        if len(self._over) >= N_TOGETHER:
            self._count_all()

    def _count_all(self) -> None:
        records, self._over = self._over, []
        for record in records:
            self._count(record)
        statuses, self._n_of_statuses = self._n_of_statuses, {}
        for status, n in statuses.items():
            self._responses.labels(str(status)).inc(n)

    def _count(self, record: RequestRecord) -> None:
        """What never reached an engine is counted, and does not bend the histograms."""
        # A name that no model has is a client's own text: as labels they would grow without bound.
        if record.outcome != "rejected":
            self._known.add(record.model)
        model = record.model if record.model in self._known else ""
        requests = self._of_outcomes.get((model, record.outcome))
        if requests is None:
            requests = self._of_outcomes[model, record.outcome] = self._requests.labels(model, record.outcome)
        requests.inc()
        if record.route:
            self._routed.labels(record.route, model, record.outcome).inc()
        if record.n_tries > 1:
            self._retries.labels(model).inc(record.n_tries - 1)
        if record.outcome == "rejected":
            return
        counts = self._of_models.get(model)
        if counts is None:
            counts = self._of_models[model] = _OfModel(
                prompt=self._prompt.labels(model),
                cached=self._cached.labels(model),
                generated=self._generated.labels(model),
                queue=self._queue.labels(model),
                duration=self._duration.labels(model),
            )
        counts.prompt.inc(record.n_prompt)
        counts.cached.inc(record.n_cached)
        counts.generated.inc(record.n_generated)
        counts.queue.observe(record.queued_s)
        counts.duration.observe(record.total_s)
        if record.first_s > 0:
            self._first.labels(model).observe(record.first_s)
        if record.n_generated > 1 and record.generation_s > 0:
            self._each.labels(model).observe(record.generation_s / (record.n_generated - 1))

    def responded(self, status: int) -> None:
        self._n_of_statuses[status] = self._n_of_statuses.get(status, 0) + 1

    def scrape(self, loads: Iterable[ModelLoad]) -> Callable[[], bytes]:
        """What there is to tell now, and the work of writing it: of thousands of models seconds, for another thread."""
        self._count_all()
        now = tuple(loads)
        self._known.update(load.model for load in now)

        def write() -> bytes:
            self._loads.loads = now
            return generate_latest(self.registry)

        return write
