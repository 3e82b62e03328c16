"""A fleet of models of nothing, and what is asked of it."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from llamahost.core.work import Job
from llamahost.fleet.fleet import Fleet
from llamahost.fleet.settings.manifest import ModelSpec
from tests.fleet.fakes import FakeLoader, spec_of


@asynccontextmanager
async def fleet_of(*specs: ModelSpec, loader: FakeLoader | None = None, **options: Any) -> AsyncIterator[Fleet]:
    """Started; closed at the end, and then nothing of it is left open."""
    loader = loader or FakeLoader()
    fleet = Fleet(specs or (spec_of(),), loader, reload_delay_s=0.0, **options)
    fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()
    assert loader.is_all_closed  # not where the test failed: what it says is told
    assert all(status.state in ("unloaded", "failed") for status in fleet.statuses())


async def generate(fleet: Fleet, job_id: int, n_max: int = 4) -> list[int]:
    async with fleet.lease("") as replica:
        with replica.stream([Job(id=job_id, tokens=array("i", [1, 2]), n_max=n_max)]) as stream:
            return [token async for emission in stream for token in emission.tokens]
