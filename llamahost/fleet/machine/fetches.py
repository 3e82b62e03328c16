"""Models whose files are being fetched: how far each is, and what ends it.

Owned by the loop; the work is `bring`'s, in a thread for each. What nobody waits for any more goes on, so that the
next request finds it; a manifest that no longer means it ends it, and an unload by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamahost.core.errors import LoadFailed, PullFailed
from llamahost.core.sizes import bytes_told
from llamahost.core.threads import in_thread

if TYPE_CHECKING:
    from llamahost.files.download import Step
    from llamahost.fleet.settings.manifest import ModelSpec

logger = logging.getLogger("llamahost.fleet")

Fetch = Callable[["ModelSpec", Callable[["Step"], None], threading.Event], "ModelSpec"]
"""The spec with the path of its file, fetched where it has to be; blocking. Raises LoadFailed."""


@dataclass(slots=True, eq=False)
class Fetching:
    """One that runs. `n_done` of `n_total` bytes of the file that comes now."""

    turn: int
    file: str = ""
    n_done: int = 0
    n_total: int = 0
    index: int = 0
    n_files: int = 1
    verb: str = ""  # what is done now; empty until it is clear that something has to come
    began_at: float = 0.0
    told_tenth: int = -1
    cancelled: threading.Event = field(default_factory=threading.Event)
    found: asyncio.Future[ModelSpec] | None = None

    def cancel(self) -> None:
        """Nobody waits from now on; the thread ends when it looks up, be that a hub's silence later."""
        self.cancelled.set()
        if self.found is not None:
            self.found.cancel()

    @property
    def fraction(self) -> float:
        """Of all files, taken as equally large: split files are, nearly."""
        done = self.n_done / self.n_total if self.n_total and self.verb == "fetching" else 0.0
        return (self.index + done) / max(1, self.n_files)

    def told(self) -> str:
        if not self.n_total:
            return self.verb
        which = f" ({self.index + 1} of {self.n_files})" if self.n_files > 1 else ""
        return f"{self.verb} {self.file}{which}: {bytes_told(self.n_done)} of {bytes_told(self.n_total)}"

    def left_s(self, now: float) -> float:
        """Until it is here, at the rate so far. Whole seconds in [2, 60]."""
        rate = self.fraction / (now - self.began_at) if now > self.began_at else 0.0
        return min(60.0, max(2.0, math.ceil((1.0 - self.fraction) / rate))) if rate > 0 else 10.0


_VERBS = {
    "listing": "asking the hub",
    "pulling": "fetching",
    "verifying": "checking",
    "linking": "linking",
    "waiting": "waiting for another one that is fetched",
}


class Fetches:
    """By model's name. `on_news` is called with each change that is worth telling."""

    def __init__(self, fetch: Fetch | None, on_news: Callable[[str, Fetching], None]) -> None:
        self._fetch = fetch
        self._on_news = on_news
        self._asked: dict[str, Fetching] = {}
        self._is_closed = False

    def of(self, name: str) -> Fetching | None:
        """What comes for this model now; None also while it is only looked for here."""
        fetching = self._asked.get(name)
        return fetching if fetching is not None and fetching.verb else None

    async def have(self, spec: ModelSpec, turn: int, now: Callable[[], float]) -> ModelSpec:
        """The spec with its file's path, when that is here. Raises LoadFailed."""
        fetch = self._fetch
        if fetch is None or spec.is_resolved:
            return spec
        if self._is_closed:
            raise LoadFailed(f"{spec.name}: the server is shutting down")
        fetching = self._asked[spec.name] = Fetching(turn, began_at=now())
        loop = asyncio.get_running_loop()

        def on_step(step: Step) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(self._see, spec.name, fetching, step)

        try:
            fetching.found = in_thread(f"pull-{spec.name}", lambda: fetch(spec, on_step, fetching.cancelled))
            found = await fetching.found
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not fetching.cancelled.is_set() or (task is not None and task.cancelling()):
                raise
            raise LoadFailed(f"{spec.name}: it is not wanted any more") from None
        except PullFailed as error:
            raise LoadFailed(f"{spec.name}: {error}") from error
        finally:
            if self._asked.get(spec.name) is fetching:
                del self._asked[spec.name]
        if fetching.verb:
            logger.info("%s: it is on this machine now, after %.0f s", spec.name, now() - fetching.began_at)
        return found

    def keep(self, is_meant: Callable[[str, int], bool]) -> None:
        """End those that are not meant any more."""
        for name, fetching in tuple(self._asked.items()):
            if not is_meant(name, fetching.turn):
                fetching.cancel()
                del self._asked[name]

    def close(self) -> None:
        """End them all. Idempotent; returns at once."""
        self._is_closed = True
        self.keep(lambda name, turn: False)

    def _see(self, name: str, fetching: Fetching, step: Step) -> None:
        if fetching.cancelled.is_set() or step.kind == "done":
            return
        if not fetching.verb:
            logger.info("%s: its file is not on this machine and is fetched", name)
        fetching.verb = _VERBS.get(step.kind, step.kind)
        fetching.file, fetching.n_done, fetching.n_total = step.file, step.n_done, step.n_total
        fetching.index, fetching.n_files = step.index, max(1, step.n_files)
        tenth = int(fetching.fraction * 10)
        if step.kind == "pulling" and tenth != fetching.told_tenth:
            fetching.told_tenth = tenth
            logger.info("%s: %s", name, fetching.told())
        self._on_news(name, fetching)
