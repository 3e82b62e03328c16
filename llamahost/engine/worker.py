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

from llamahost.core.work import Job
from llamahost.engine.engine import Engine

logger = logging.getLogger("llamahost.engine")

STALL_S = 30.0
STALL_FACTOR = 20.0
"""A step stalls when it has run STALL_S, and this many times longer than what a step of its size takes here."""

EXIT_PATIENCE_S = 5.0
"""How long a program that ends waits for a step that does not return."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What a look from outside says. `busy_for_s` is the age of the step that runs, 0 between steps."""

    is_stalled: bool
    busy_for_s: float
    n_steps: int


@dataclass(frozen=True, slots=True)
class _Submit:
    engine: Engine
    job: Job


@dataclass(frozen=True, slots=True)
class _Abort:
    engine: Engine
    job_id: int


@dataclass(frozen=True, slots=True)
class _Attach:
    engine: Engine


@dataclass(frozen=True, slots=True)
class _Detach:
    engine: Engine
    done: Future[None]


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Message = _Submit | _Abort | _Attach | _Detach | _Stop


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
        self._engines: tuple[Engine, ...] = ()  # replaced, never changed: `watch` reads it from outside
        self._is_stopping = False
        # A daemon: a decode that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        # A program that ends without closing would have C's own clean-up run beside a decode, and crash.
        atexit.register(self.close, EXIT_PATIENCE_S)
        self._thread.start()

    def attach(self, engine: Engine) -> None:
        """Step this engine from now on; its backend belongs to this thread."""
        self._send(_Attach(engine))

    def submit(self, engine: Engine, job: Job) -> None:
        """Give a job to the engine; its news ends with an emission that has `finish`, even when the thread is gone."""
        self._send(_Submit(engine, job))

    def abort(self, engine: Engine, job_id: int) -> None:
        """End a job before the engine's next plan. Idempotent."""
        self._send(_Abort(engine, job_id))

    def detach(self, engine: Engine) -> Future[None]:
        """Close the engine and its backend, failing its jobs; done when its memory is free."""
        done: Future[None] = Future()
        self._send(_Detach(engine, done))
        return done

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
        is_stalled = self._thread.ident is not None and not self._thread.is_alive() and not self._is_stopping
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
        while not self._is_stopping:
            is_idle = True
            for engine in self._engines:
                # A message may be for an engine that has had its turn: only a round without any may end in sleep.
                is_idle &= not self._obey_all()
                is_idle &= not engine.step()
                if len(self._engines) > 1:
                    engine.flush()  # its next step waits for those of the others
            if is_idle:
                self._obey(self._inbox.get())
        self._obey_the_rest()

    def _obey_all(self) -> bool:
        inbox = self._inbox
        if inbox.empty():
            return False
        while not inbox.empty():
            self._obey(inbox.get_nowait())  # this thread alone takes, so it cannot have become empty
        return True

    def _obey_the_rest(self) -> None:
        """At the thread's end and after it, when whoever comes takes what is there."""
        with contextlib.suppress(Empty):
            while True:
                self._obey(self._inbox.get_nowait())

    def _obey(self, message: _Message) -> None:
        try:
            match message:
                case _Submit(engine, job):
                    engine.submit(job)
                case _Abort(engine, job_id):
                    engine.abort(job_id)
                case _Attach(engine):
                    self._engines = (*self._engines, engine)
                case _Detach(engine, done):
                    self._detach(engine, done)
                case _Stop():
                    self._is_stopping = True
                    for engine in self._engines:
                        self._detach(engine, Future())
        except Exception:  # the thread lives on, whatever a message does
            logger.exception("worker %s could not obey %s", self.name, type(message).__name__)

    def _detach(self, engine: Engine, done: Future[None]) -> None:
        self._engines = tuple(other for other in self._engines if other is not engine)
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
