"""A host on devices that are all this CPU, with a budget each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llamahost.fleet.machine.devices import BudgetedDevices
from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings
from llamahost.host import AsyncHost

MB = 2**20


def spec(name: str, path: Path, **options: Any) -> ModelSpec:
    known = {"n_ctx": 64, "n_slots": 2, "n_threads": 1, "n_batch": 64, "n_ubatch": 64, "load": "request"}
    return ModelSpec(name=name, path=path, **{**known, **options})


@asynccontextmanager
async def host_of(*specs: ModelSpec, budgets: Mapping[str, int], **settings: Any) -> AsyncIterator[AsyncHost]:
    manifest = Manifest(models=specs, server=ServerSettings(**settings))
    async with AsyncHost(manifest, hardware=BudgetedDevices(budgets)) as host:
        yield host
