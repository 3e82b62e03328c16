"""What is kept of what is served: metrics, rates of late, the last requests. An observer; knows no HTTP and no model.

Tokens are counted where they are made, by totals that somebody reads about once a second (`count`); requests when they
are over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llamahost.core.observe import RequestRecord
from llamahost.ops.journal import Entry, Journal
from llamahost.ops.metrics import Metrics
from llamahost.ops.window import Window

TOKENS_S = 10.0
REQUESTS_S = 60.0
"""What the rates of tokens and of requests are measured over."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Total:
    """Tokens that one replica has read and made since it was loaded; less than before means that it was loaded anew."""

    model: str
    replica: str
    n_in: int
    n_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of a model, or of all. Zeros where nothing was measured."""

    tokens_per_s: float = 0.0  # generated
    prompt_tokens_per_s: float = 0.0
    requests_per_min: int = 0
    last_used: float | None = None  # when a request that it computed ended, in seconds since 1970


class _Counts:
    """The windows of one model, or of all."""

    def __init__(self, now: float) -> None:
        self.n_in = Window(TOKENS_S, now)
        self.n_out = Window(TOKENS_S, now)
        self.requests = Window(REQUESTS_S, now)
        self.last_used: float | None = None

    def rates(self, now: float) -> Rates:
        return Rates(
            tokens_per_s=self.n_out.per_s(now),
            prompt_tokens_per_s=self.n_in.per_s(now),
            requests_per_min=self.requests.n(now),
            last_used=self.last_used,
        )


class Tally:
    """Owned by the event loop."""

    def __init__(self, *, clock: Clock = time.monotonic, wall: Clock = time.time) -> None:
        self.metrics = Metrics()
        self.journal = Journal()
        self._clock = clock
        self._wall = wall
        self._all = _Counts(clock())
        self._models: dict[str, _Counts] = {}
        self._seen: dict[str, Total] = {}
        self._listeners: list[Callable[[Entry], None]] = []

    def finished(self, record: RequestRecord) -> None:
        """A request is over."""
        self.metrics.finished(record)
        now, entry = self._clock(), Entry(self._wall(), record)
        self.journal.add(entry)
        self._all.requests.add(now, 1)
        if counts := self._models.get(record.model):  # a name that no model has is a client's own text
            counts.requests.add(now, 1)
            if record.outcome != "rejected":
                counts.last_used = entry.ended_at
        for listener in tuple(self._listeners):
            listener(entry)

    def count(self, models: Iterable[str], totals: Iterable[Total]) -> None:
        """The models that there are, and how their replicas stand. What is not named here is forgotten."""
        now = self._clock()
        self._models = {name: self._models.get(name) or _Counts(now) for name in models}
        seen: dict[str, Total] = {}
        for total in totals:
            seen[total.replica] = total
            then = self._seen.get(total.replica, Total("", "", 0, 0))
            is_new = total.n_in < then.n_in or total.n_out < then.n_out
            n_in, n_out = (total.n_in, total.n_out) if is_new else (total.n_in - then.n_in, total.n_out - then.n_out)
            for counts in (self._all, self._models.get(total.model)):
                if counts is not None:
                    counts.n_in.add(now, n_in)
                    counts.n_out.add(now, n_out)
        self._seen = seen

    def rates(self, model: str = "") -> Rates:
        """Of one model, or of all."""
        counts = self._models.get(model) if model else self._all
        return counts.rates(self._clock()) if counts is not None else Rates()

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Tell each request when it is over, from now on; returns what ends it."""
        self._listeners.append(listener)

        def end() -> None:
            with contextlib.suppress(ValueError):  # it has ended before
                self._listeners.remove(listener)

        return end
