"""A host of two replicas on backends that fail as they are told, and what it tells of its requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llamahost.core.observe import RequestRecord
from llamahost.fleet.settings.manifest import Manifest
from llamahost.host import AsyncHost
from tests.fakes import FakeBackend
from tests.fleet.budgeted import BudgetedDevices
from tests.fleet.fakes import FakeLoader, spec_of
from tests.on_loop import turns


class Records(list[RequestRecord]):
    def finished(self, record: RequestRecord) -> None:
        self.append(record)


@asynccontextmanager
async def two_replicas(*backends: FakeBackend, records: Records, max_queue: int = 9) -> AsyncIterator[AsyncHost]:
    loader = FakeLoader(iter(backends).__next__)
    devices = BudgetedDevices({"cpu-0": 2**30, "cpu-1": 2**30})
    manifest = Manifest(models=(spec_of("m", replicas=2, max_queue=max_queue),))
    async with AsyncHost(manifest, observer=records, load=loader, hardware=devices) as host:
        while [replica.state for replica in host.models()[0].replicas] != ["ready", "ready"]:
            await turns()
        yield host
