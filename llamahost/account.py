"""What becomes of one request, from its arrival to the record that observers get. Knows times; knows no model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

from llamahost.core.errors import InvalidRequest, ModelNotFound, Overloaded, Unavailable
from llamahost.core.events import Event, Finished, Started
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.observe import Kind, Observer, Outcome, RequestRecord, asker, request_id
from llamahost.core.work import Times
from llamahost.fleet.routing.rates import Answered
from llamahost.fleet.routing.router import Tries
from llamahost.text.reply import Reply

_REFUSALS = (InvalidRequest, ModelNotFound, Overloaded, Unavailable)


class Account:
    """Owned by the loop. A request of `n` answers to each prompt, or one that is answered whole.

    `with Account(…) as account`: when that is left it is over, and `observer` is told.
    """

    __slots__ = (
        "_arrived", "_clock", "_error", "_has_begun", "_id", "_kind", "_n", "_n_cached", "_n_open", "_n_prompt",
        "_observer", "_outcome", "_reason", "_replies", "asked", "first_s", "model", "times", "tries",
    )  # fmt: skip

    def __init__(self, model: str, kind: Kind, n: int = 1, observer: Observer | None = None) -> None:
        self._observer = observer
        self._clock = asyncio.get_running_loop().time
        self._arrived = self._clock()
        self._kind = kind
        self._id = request_id.get()
        self._n = n
        self._n_cached = 0
        self._n_open = 1
        self._n_prompt = 0
        self._has_begun = False
        self._replies: Sequence[Reply] = ()
        self._error = ""
        self._outcome: Outcome = "cancelled"
        self._reason: Outcome = "stop"
        self.asked: ChatRequest | CompletionRequest | None = None  # until its first event: it may be half a megabyte
        self.first_s = 0.0
        self.model = model
        self.times = Times()
        self.tries: Tries | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.failed(error)
        if self._observer is not None:
            self._observer.finished(self.record())

    def begin(self, n_prompt: int, replies: Sequence[Reply] = ()) -> None:
        """Its words are tokens, and these will tell its answers."""
        self._has_begun = True
        self._n_prompt = n_prompt
        self._replies = replies
        self._n_open = max(1, len(replies))

    def see(self, event: Event) -> Event:
        """What is to be told of it: a Started says who answers. From the first one on, nobody else is tried."""
        self.asked = None
        if self.tries is not None:
            self.tries.begin()
        if not self.first_s and self.times.first:  # not by what is told of a prompt
            self.first_s = max(1e-9, self._clock() - self._arrived)
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
        times, n = self.times, max(1, len(self._replies))
        return Answered(
            n_computed=(self._n_prompt - self._n_cached) if n == 1 else 0,
            prompt_s=times.first - times.admitted if times.first else 0.0,
            n_generated=self._n_generated // n,
            generation_s=self._generation_s,
            total_s=self._clock() - self._arrived,
        )

    def end(self) -> None:
        """It was answered whole."""
        self._n_open = 0

    def failed(self, error: BaseException) -> None:
        if isinstance(error, GeneratorExit | asyncio.CancelledError):
            return
        self._outcome = "rejected" if isinstance(error, _REFUSALS) and not self._has_begun else "error"
        self._error = type(error).__name__
        tries, told = self.tries, asker.get()
        if told is not None and tries is not None and tries.n_tries:
            told.answered_by(tries.replica.rpartition("#")[0] or self.model, tries.replica, tries.n_tries)

    @property
    def _n_generated(self) -> int:
        return sum([reply.n_generated for reply in self._replies])

    @property
    def _generation_s(self) -> float:
        return max(0.0, self.times.last - self.times.first) if self.times.first else 0.0

    def record(self) -> RequestRecord:
        times, tries = self.times, self.tries
        return RequestRecord(
            model=self.model,
            kind=self._kind,
            id=self._id,
            error=self._error,
            n_prompt=self._n_prompt,
            n_cached=self._n_cached,
            n_generated=self._n_generated,
            queued_s=max(0.0, times.admitted - times.arrived) if times.admitted else 0.0,
            first_s=self.first_s,
            generation_s=self._generation_s,
            total_s=self._clock() - self._arrived,
            # Whoever leaves after the last event has had all: that is no cancelling.
            outcome=self._reason if self._n_open == 0 else self._outcome,
            route=tries.route if tries else "",
            replica=tries.replica if tries else "",
            n_tries=tries.n_tries if tries else 0,
        )
