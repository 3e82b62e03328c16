"""Pulls that a server does for its clients: one a model, shared by all who ask, ended when nobody does any more.

Owned by the loop. The work is `download`'s, in a thread for each; here is who listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamahost.core.errors import Overloaded, Unavailable
from llamahost.core.threads import in_thread

if TYPE_CHECKING:
    from llamahost.files.download import Puller, Step
    from llamahost.files.repo import Reference

MAX_AT_ONCE = 3
MAX_ASKERS = 64  # of one pull


def _puller() -> Puller:
    """In a thread of its own: what pulls is imported when somebody pulls, and no start waits for it."""
    from llamahost.files.download import Puller

    return Puller.of(os.environ)


@dataclass(slots=True, eq=False)
class _Pull:
    """One that runs. `steps` has one for each kind of work on each file: the last grows, those before are done."""

    steps: list[Step] = field(default_factory=list)
    n_askers: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    is_over: bool = False

    def tell(self, step: Step) -> None:
        if self.steps and (self.steps[-1].kind, self.steps[-1].file) == (step.kind, step.file):
            self.steps[-1] = step
        else:
            self.steps.append(step)
        self.wake()

    def end(self, error: Exception | None) -> None:
        self.error, self.is_over = error, True
        self.wake()

    def wake(self) -> None:
        """Everybody who waits gets his turn; whoever does not wait sees that the event is another one."""
        self.news.set()
        self.news = asyncio.Event()


class Pulls:
    """From its first pull to `close`."""

    def __init__(self, make: Callable[[], Puller] = _puller) -> None:
        self._make = make
        self._pulls: dict[Reference, _Pull] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def pull(self, reference: Reference) -> AsyncGenerator[Step, None]:
        """Steps until the model is here. Leaving ends the pull, unless others listen too; what has come is kept.

        Raises PullFailed, Overloaded, Unavailable.
        """
        pull = self._join(reference)
        try:
            k, last = 0, None
            while True:
                news = pull.news
                while k < len(pull.steps):
                    if pull.steps[k] is not last:
                        last = pull.steps[k]
                        yield last
                        continue  # it may have grown meanwhile
                    if k == len(pull.steps) - 1:
                        break
                    k += 1
                if pull.is_over:
                    break
                if news is pull.news:
                    await news.wait()
            if pull.error is not None:
                raise pull.error
        finally:
            pull.n_askers -= 1
            if not pull.n_askers:
                self._drop(reference, pull)

    def close(self) -> None:
        """End them all, and refuse what is new. Idempotent; returns at once."""
        self._is_closed = True
        for pull in self._pulls.values():
            pull.cancelled.set()
            pull.end(Unavailable("the server is shutting down"))

    async def ended(self, patience_s: float) -> None:
        """Wait until no thread works any more, but no longer than that."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_s)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _join(self, reference: Reference) -> _Pull:
        if self._is_closed:
            raise Unavailable("the server is shutting down")
        pull = self._pulls.get(reference)
        if pull is None or pull.is_over:
            if len(self._tasks) >= MAX_AT_ONCE:
                raise Overloaded(f"{MAX_AT_ONCE} models are being pulled already", retry_after_s=10.0)
            pull = self._pulls[reference] = _Pull()
            task = asyncio.create_task(self._run(reference, pull))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif pull.n_askers >= MAX_ASKERS:
            raise Overloaded(f"{MAX_ASKERS} clients listen to the pull of {reference} already", retry_after_s=10.0)
        pull.n_askers += 1
        return pull

    async def _run(self, reference: Reference, pull: _Pull) -> None:
        loop = asyncio.get_running_loop()

        def on_step(step: Step) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(pull.tell, step)

        def work() -> None:
            self._make().pull(reference, on_step, pull.cancelled)

        try:
            await in_thread(f"pull-{reference.repo}", work)
        except Exception as error:  # told to whoever listens
            if not pull.is_over:
                pull.end(error)
        else:
            pull.end(None)

    def _drop(self, reference: Reference, pull: _Pull) -> None:
        """Nobody listens any more."""
        pull.cancelled.set()
        if self._pulls.get(reference) is pull:
            del self._pulls[reference]
