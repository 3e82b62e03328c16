"""A fake host of two models, one of which is broken; and what is told of them, decoded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from llamahost.engine.engine import EngineStats
from llamahost.fleet.machine.footprint import Footprint
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import ModelStatus, ReplicaStatus
from tests.api.fakes import CARD, READY, FakeHost

COPY = ReplicaStatus(
    id="org/model#0",
    state="ready",
    devices=("CUDA0",),
    estimated=Footprint(weights_bytes=70, kv_bytes=20, compute_bytes=10),
    n_slots=4,
    n_waiting=3,
    last_used=7.0,
    stats=EngineStats(n_running=2, n_cells=256),
)
SLASHED = replace(
    READY, name="org/model", aliases=("m", "gpt-*"), card=CARD, replicas=(COPY, replace(COPY, id="org/model#1"))
)
FAILED = ModelStatus(name="broken", state="failed", reason="corrupt")


def host_of(*statuses: ModelStatus) -> FakeHost:
    best = RouteSpec(name="best", models=("org/model", "broken"), aliases=("claude-*",))
    return FakeHost(statuses=statuses or (SLASHED, FAILED), known_routes=(best,))


def told(body: bytes, kind: type) -> Any:
    """Decoded as the type that the document names: unknown fields are forbidden there."""
    return msgspec.json.decode(body, type=kind)
