"""Looks at the models once in a while: counts their tokens, and tells listeners what changed. Owned by the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from llamahost.api.admin_told import count, fault_told, gpus_told, model_told, request_told
from llamahost.api.admin_types import EventKind, ModelInfo, ModelsInfo
from llamahost.api.feed import Feed, encoded
from llamahost.api.service import Service
from llamahost.host import ModelStatus
from llamahost.ops.gpu import Gpus
from llamahost.ops.gpu_monitor import GpuMonitor, News
from llamahost.ops.journal import Entry
from llamahost.ops.tally import Tally

COUNT_S = 1.0
LOOK_S = 0.2
"""Between looks while somebody listens: progress is worth telling a few times a second."""


class Watch:
    """From `start` to `close`, which are the server's own. Between them it costs one look a second."""

    def __init__(self, service: Service, tally: Tally, gpus: GpuMonitor) -> None:
        self.feed = Feed(self._look)
        self._service = service
        self._tally = tally
        self._gpus = gpus
        self._seen: dict[str, tuple[object, ...]] = {}
        self._ends: list[Callable[[], None]] = []
        self._counting: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._gpus.start()
        self._ends = [self._gpus.listen(self._on_gpus), self._tally.listen(self._on_request)]
        self._count()

    def close(self) -> None:
        self.feed.close()
        self._gpus.close()
        for end in self._ends:
            end()
        for timer in (self._counting, self._looking):
            if timer is not None:
                timer.cancel()

    def first(self, kinds: Collection[EventKind]) -> list[bytes]:
        """What a listener is told when he begins: everything as it stands, of these kinds."""
        events: list[bytes] = []
        if "models" in kinds:
            events.append(encoded("models", self.models()))
        if "gpus" in kinds:
            events.append(encoded("gpus", gpus_told(self._gpus.latest)))
        return events

    def models(self) -> ModelsInfo:
        statuses = self._service.models()
        count(self._tally, statuses)
        return ModelsInfo(models=[self._told(status) for status in statuses])

    def _told(self, status: ModelStatus) -> ModelInfo:
        return model_told(status, self._tally.rates(status.name))

    def _count(self) -> None:
        count(self._tally, self._service.models())
        self._counting = asyncio.get_running_loop().call_later(COUNT_S, self._count)

    def _look(self) -> None:
        """Tell which models are not as they were, as long as somebody listens."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if not self.feed.n_listeners:
            return
        seen: dict[str, tuple[object, ...]] = {}
        for status in self._service.models():
            seen[status.name] = (status.state, status.reason, round(status.progress, 2), status.is_stalled)
            if self._seen and self._seen.get(status.name) != seen[status.name]:
                self._tell(status)
        self._seen = seen
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _tell(self, status: ModelStatus) -> None:
        self.feed.tell("model", lambda: self._told(status))

    def _on_gpus(self, news: News) -> None:
        if isinstance(news, Gpus):
            self.feed.tell("gpus", lambda: gpus_told(news))
        else:
            self.feed.tell("fault", lambda: fault_told(news))

    def _on_request(self, entry: Entry) -> None:
        self.feed.tell("request", lambda: request_told(entry))
