"""One thread that steps its engines in turn and takes messages from every other. The only toucher of their backends."""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from llamahost.engine.engine import Doing, EngineStats
from llamahost.engine.turns import Turns

logger = logging.getLogger("llamahost.engine")

STALL_S = 30.0
STALL_FACTOR = 20.0
"""A step stalls when it has run STALL_S, and this many times longer than what a step of its size takes here."""

EXIT_PATIENCE_S = 5.0
"""How long a program that ends waits for a step that does not return."""

J = TypeVar("J", contravariant=True)


class Steps(Protocol):
    """What a worker asks of an engine: `engine.Engine` and `embedder.Embedder` are such."""

    stats: EngineStats
    doing: Doing | None

    def abort(self, job_id: int) -> None: ...

    def step(self) -> bool: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Takes(Steps, Protocol[J]):
    """One that takes jobs of that kind."""

    def submit(self, job: J) -> None: ...


@dataclass(frozen=True, slots=True)
class Watch:
    """What a look from outside says. `busy_for_s` is the age of the step that runs, 0 between steps."""

    is_stalled: bool
    busy_for_s: float
    n_steps: int


@dataclass(frozen=True, slots=True)
class _Submit:
    give: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Abort:
    engine: Steps
    job_id: int


@dataclass(frozen=True, slots=True)
class _Attach:
    engine: Steps


@dataclass(frozen=True, slots=True)
class _Detach:
    engine: Steps
    done: Future[None]


@dataclass(frozen=True, slots=True)
class _Call:
    work: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Message = _Submit | _Abort | _Attach | _Detach | _Call | _Stop


class Worker:
    """Every method may be called from any thread, and none but `close` waits.

    Messages are obeyed in the order in which they were sent, all of them before the next plan of any engine.
    """

    def __init__(self, name: str, *, stall_s: float = STALL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._stall_s = stall_s
        self._clock = clock
        # A C queue: putting never blocks, and getting wakes without a poll.
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        self._turns: Turns[Steps] = Turns()
        self._engines: tuple[Steps, ...] = ()  # replaced, never changed: `watch` reads it from outside
        self._is_stopping = False
        self._has_ended = False
        # A daemon: a decode that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def n_engines(self) -> int:
        return len(self._engines)

    def start(self) -> None:
        # A program that ends without closing would have C's own clean-up run beside a decode, and crash.
        atexit.register(self.close, EXIT_PATIENCE_S)
        self._thread.start()

    def is_sole(self, engine: Steps) -> bool:
        """No other engine has work, as far as they were asked. For an engine, in this worker's thread."""
        return self._turns.is_sole(engine)

    def attach(self, engine: Steps) -> None:
        """Step this engine from now on; its backend belongs to this thread."""
        self._send(_Attach(engine))

    def submit(self, engine: Takes[J], job: J) -> None:
        """Give a job to the engine, which tells its end in any case, even when the thread is gone."""
        self._send(_Submit(lambda: engine.submit(job)))

    def abort(self, engine: Steps, job_id: int) -> None:
        """End a job before the engine's next plan. Idempotent."""
        self._send(_Abort(engine, job_id))

    def detach(self, engine: Steps) -> Future[None]:
        """Close the engine and its backend, failing its jobs; done when its memory is free."""
        done: Future[None] = Future()
        self._send(_Detach(engine, done))
        return done

    def call(self, work: Callable[[], None]) -> None:
        """Do something to a backend of this thread between two steps, after all that was sent before."""
        self._send(_Call(work))

    def close(self, timeout_s: float | None = None) -> bool:
        """Close every engine and end the thread. False: a step did not return within `timeout_s`. Idempotent."""
        self._inbox.put(_Stop())
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
        self._obey_the_rest()
        atexit.unregister(self.close)
        return True

    def watch(self, now: float) -> Watch:
        """Whether a step fails to return, by the clock that the worker was given. Takes no lock, so it never waits."""
        busy_for_s = 0.0
        n_steps = 0
        is_stalled = self._has_ended and not self._is_stopping
        for engine in self._engines:
            n_steps += engine.stats.n_steps
            doing = engine.doing
            if doing is not None:
                busy_for_s = now - doing.since
                is_stalled |= busy_for_s > max(self._stall_s, STALL_FACTOR * doing.expected_s)
        return Watch(is_stalled, busy_for_s, n_steps)

    def _send(self, message: _Message) -> None:
        self._inbox.put(message)
        # Proof that none is lost: what is put before the thread's end is obeyed by it or by `close`, which joins it;
        # what is put later finds it dead here.
        if self._is_stopping and not self._thread.is_alive():
            self._obey_the_rest()

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._has_ended = True

    def _serve(self) -> None:
        turns, clock = self._turns, self._clock
        while not self._is_stopping:
            self._obey_all()
            engine = turns.next()
            if engine is None:
                if not self._is_stopping:  # each has been asked since the last message: only then may this sleep
                    self._obey(self._inbox.get())
                    turns.wake()
                continue
            began = clock()
            if not engine.step():
                turns.idle(engine)
                continue
            if len(self._engines) > 1:
                engine.flush()  # its next step waits for those of the others
                turns.served(engine, clock() - began)
        self._obey_the_rest()

    def _obey_all(self) -> None:
        inbox = self._inbox
        if inbox.empty():
            return
        while not inbox.empty():
            self._obey(inbox.get_nowait())  # this thread alone takes, so it cannot have become empty
        self._turns.wake()

    def _obey_the_rest(self) -> None:
        """At the thread's end and after it, when whoever comes takes what is there."""
        with contextlib.suppress(Empty):
            while True:
                self._obey(self._inbox.get_nowait())

    def _obey(self, message: _Message) -> None:
        try:
            match message:
                case _Submit(give):
                    give()
                case _Abort(engine, job_id):
                    engine.abort(job_id)
                case _Attach(engine):
                    self._turns.join(engine)
                    self._engines = self._turns.takers
                case _Detach(engine, done):
                    self._detach(engine, done)
                case _Call(work):
                    work()
                case _Stop():
                    self._is_stopping = True
                    for engine in self._engines:
                        self._detach(engine, Future())
        except Exception:  # the thread lives on, whatever a message does
            logger.exception("worker %s could not obey %s", self.name, type(message).__name__)

    def _detach(self, engine: Steps, done: Future[None]) -> None:
        self._turns.leave(engine)
        self._engines = self._turns.takers
        try:
            engine.close()
        except Exception as error:
            _settle(done, error)
        else:
            _settle(done, None)


def _settle(done: Future[None], error: Exception | None) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled by whoever waited
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
