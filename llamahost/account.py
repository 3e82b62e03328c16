"""What becomes of one request, from its arrival to the record that observers get. Knows times; knows no model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamahost.core.errors import InvalidRequest, ModelNotFound, Overloaded, Unavailable
from llamahost.core.events import Event, Finished, Started
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.observe import Kind, Outcome, RequestRecord, request_id
from llamahost.core.work import Times
from llamahost.fleet.rates import Answered
from llamahost.fleet.router import Tries

if TYPE_CHECKING:  # the loader brings llama_cpp, which a process that only starts up need not wait for
    from llamahost.fleet.loader import Prepared


@dataclass(slots=True)
class Measure:
    """What becomes of one request that is answered whole. Owned by the loop."""

    model: str
    n_prompt: int = 0
    outcome: Outcome = "cancelled"
    error: str = ""
    route: str = ""
    replica: str = ""
    n_tries: int = 0


class Account:
    """What becomes of one request, kept for its record. Owned by the loop."""

    __slots__ = (
        "_clock", "_error", "_id", "_kind", "_n", "_n_cached", "_n_open", "_outcome", "_reason",
        "arrived", "first_s", "model", "prepared", "times", "tries",
    )  # fmt: skip

    def __init__(self, request: ChatRequest | CompletionRequest, kind: Kind) -> None:
        self._clock = asyncio.get_running_loop().time
        self._kind = kind
        self._n = request.generation.n
        self._n_cached = 0
        self._n_open = -1
        self._id = request_id.get()
        self._error = ""
        self._outcome: Outcome = "cancelled"
        self._reason: Outcome = "stop"
        self.arrived = self._clock()
        self.first_s = 0.0
        self.model = request.model
        self.prepared: Prepared | None = None
        self.times = Times()
        self.tries: Tries | None = None

    def begin(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self._n_open = len(prepared.jobs)

    def see(self, event: Event) -> Event:
        """What is to be told of it: a Started says who answers."""
        if not self.first_s and self.times.first:  # not by what is told of a prompt
            self.first_s = max(1e-9, self._clock() - self.arrived)
        match event:
            case Started(index=index, n_cached=n_cached):
                if index % self._n == 0:
                    self._n_cached += n_cached
                if (tries := self.tries) is not None:
                    replica, n_tries = tries.replica, tries.n_tries
                    return Started(index, event.model, event.n_prompt, n_cached, replica, n_tries, event.is_cut)
            case Finished(index, reason):
                self._n_open -= 1
                if index == 0:
                    self._reason = reason
        return event

    def answered(self) -> Answered:
        """What it tells of the model's speed: by its last answer, of several."""
        record, times = self.record(), self.times
        n = max(1, len(self.prepared.replies) if self.prepared else 1)
        return Answered(
            n_computed=(record.n_prompt - record.n_cached) if n == 1 else 0,
            prompt_s=times.first - times.admitted if times.first else 0.0,
            n_generated=record.n_generated // n,
            generation_s=record.generation_s,
            total_s=record.total_s,
        )

    def failed(self, error: BaseException) -> None:
        if isinstance(error, InvalidRequest | ModelNotFound | Overloaded | Unavailable) and self.prepared is None:
            self._outcome = "rejected"
        elif isinstance(error, GeneratorExit | asyncio.CancelledError):
            self._outcome = "cancelled"
            return
        else:
            self._outcome = "error"
        self._error = type(error).__name__

    def record(self) -> RequestRecord:
        replies = self.prepared.replies if self.prepared else ()
        jobs = self.prepared.jobs if self.prepared else ()
        times = self.times
        return RequestRecord(
            model=self.model,
            kind=self._kind,
            id=self._id,
            error=self._error,
            n_prompt=sum(len(job.tokens) for job in jobs[:: self._n]),
            n_cached=self._n_cached,
            n_generated=sum(reply.n_generated for reply in replies),
            queued_s=max(0.0, times.admitted - times.arrived) if times.admitted else 0.0,
            first_s=self.first_s,
            generation_s=max(0.0, times.last - times.first) if times.first else 0.0,
            total_s=self._clock() - self.arrived,
            # Whoever leaves after the last event has had all: that is no cancelling.
            outcome=self._reason if self._n_open == 0 else self._outcome,
            route=self.tries.route if self.tries else "",
            replica=self.tries.replica if self.tries else "",
            n_tries=self.tries.n_tries if self.tries else 0,
        )
