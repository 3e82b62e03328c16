"""Looks at the models once in a while: counts their tokens, and tells listeners what changed. Owned by the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator

from llamahost.api.admin_told import count, fault_told, gpus_told, load_told, model_told, request_told
from llamahost.api.admin_types import EventKind, ModelInfo, ModelsInfo
from llamahost.api.feed import Feed, encoded
from llamahost.api.service import Service
from llamahost.api.sse import PING
from llamahost.core.observe import FleetEvent, ModelChanged
from llamahost.host import ModelStatus
from llamahost.ops.gpu import Gpus
from llamahost.ops.gpu_monitor import GpuMonitor, News
from llamahost.ops.journal import Entry
from llamahost.ops.tally import Tally

COUNT_S = 1.0


class Watch:
    """From `start` to `close`, which are the server's own. Between them it costs one look a second."""

    def __init__(self, service: Service, tally: Tally, gpus: GpuMonitor) -> None:
        self.feed = Feed()
        self._service = service
        self._tally = tally
        self._gpus = gpus
        self._stalled: frozenset[str] = frozenset()
        self._last: dict[str, object] = {}  # what was told of each model's states
        self._ends: list[Callable[[], None]] = []
        self._counting: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._gpus.start()
        self._ends = [
            self._gpus.listen(self._on_gpus),
            self._tally.listen(self._on_request),
            self._service.listen(self._on_fleet),
        ]
        self._count()

    def close(self) -> None:
        self.feed.close()
        self._gpus.close()
        for end in self._ends:
            end()
        if self._counting is not None:
            self._counting.cancel()

    def first(self, kinds: Collection[EventKind]) -> list[bytes]:
        """What a listener is told when he begins: everything as it stands, of these kinds.

        Where there is nothing to tell, a comment: with it go the headers, by which he knows that he is heard.
        """
        events: list[bytes] = []
        if "models" in kinds:
            events.append(encoded("models", self.models()))
        if "gpus" in kinds:
            events.append(encoded("gpus", gpus_told(self._gpus.latest)))
        return events or [PING]

    def models(self) -> ModelsInfo:
        return ModelsInfo(models=list(self.each()))

    def each(self) -> Iterator[ModelInfo]:
        """All models as they stand now, of which the next may be had later."""
        statuses = self._service.models()
        count(self._tally, statuses)
        return map(self._told, statuses)

    def tell_all(self) -> None:
        """Other models may be served now: tell listeners of all of them, as when they began."""
        self._last.clear()
        self.feed.tell("models", self.models)

    def _told(self, status: ModelStatus) -> ModelInfo:
        return model_told(status, self._tally.rates(status.name))

    def _count(self) -> None:
        statuses = self._service.models()
        count(self._tally, statuses)
        stalled = frozenset(status.name for status in statuses if status.is_stalled)
        for name in stalled ^ self._stalled:  # seen by a clock alone, so nobody tells it
            self._tell(name)
        self._stalled = stalled
        self._counting = asyncio.get_running_loop().call_later(COUNT_S, self._count)

    def _tell(self, name: str) -> None:
        """How this model is now, if it still is there."""
        if not self.feed.n_listeners:
            self._last.clear()
            return
        status = next((each for each in self._service.models() if each.name == name), None)
        if status is None:
            return
        states = (status.state, status.reason, status.is_stalled, [(r.id, r.state, r.reason) for r in status.replicas])
        if self._last.get(name) != states:  # a model and its replica change together
            self._last[name] = states
            self.feed.tell("model", lambda: self._told(status))

    def _on_fleet(self, event: FleetEvent) -> None:
        if isinstance(event, ModelChanged):
            self._tell(event.model)
        else:
            self.feed.tell("load", lambda: load_told(event))

    def _on_gpus(self, news: News) -> None:
        if isinstance(news, Gpus):
            self.feed.tell("gpus", lambda: gpus_told(news))
        else:
            self.feed.tell("fault", lambda: fault_told(news))
            if news.is_fatal:
                self._service.quarantine(news.pci_id, news.told)

    def _on_request(self, entry: Entry) -> None:
        self.feed.tell("request", lambda: request_told(entry))
