"""Devices that are all this CPU, with a budget each; and a host on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamahost.fleet.machine.devices import Device, Kind
from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings
from llamahost.host import AsyncHost

MB = 2**20


def spec(name: str, path: Path, **options: Any) -> ModelSpec:
    known = {"n_ctx": 64, "n_slots": 2, "n_threads": 1, "n_batch": 64, "n_ubatch": 64, "load": "request"}
    return ModelSpec(name=name, path=path, **{**known, **options})


@dataclass(frozen=True)
class BudgetedDevices:
    """Several devices that are all this CPU, each with a budget of its own: how a fleet is driven without GPUs."""

    budgets: Mapping[str, int]
    kind: Kind = "cpu"
    trouble: str = ""
    is_broken: bool = False
    blocks: bool = False
    is_budgeted: bool = True

    def budgeted(self, host_bytes: int | None) -> BudgetedDevices:
        return self  # each has its own

    def forsake(self, device_id: str) -> None:
        return  # no driver is asked

    def all(self) -> tuple[Device, ...]:
        return tuple(Device(id=name, kind=self.kind, total_bytes=n) for name, n in self.budgets.items())

    def free_bytes(self) -> Mapping[str, int]:
        return {}


@asynccontextmanager
async def host_of(*specs: ModelSpec, budgets: Mapping[str, int], **settings: Any) -> AsyncIterator[AsyncHost]:
    manifest = Manifest(models=specs, server=ServerSettings(**settings))
    async with AsyncHost(manifest, hardware=BudgetedDevices(budgets)) as host:
        yield host
