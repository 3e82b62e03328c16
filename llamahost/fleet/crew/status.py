"""How models and their replicas stand, as it is told to whoever asks. Plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llamahost.engine.engine import EngineStats
from llamahost.fleet.machine.footprint import Footprint
from llamahost.fleet.replica.adapters import AdapterStatus
from llamahost.fleet.replica.card import ModelCard
from llamahost.fleet.settings.manifest import LoadMode, ModelSpec
from llamahost.text.remembered import Heard

State = Literal["unloaded", "pulling", "loading", "ready", "failed", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One copy of a model. `estimated` is what it was granted for, `measured` what it takes, once it is loaded; `note`
    says what stays with the CPU of one that is for a GPU.

    `n_in_flight` counts answers being made or waited for, `n_waiting` those of them without a slot. `last_used` is in
    seconds since 1970, 0 before its first request.
    """

    id: str
    state: State
    reason: str = ""
    progress: float = 0.0
    devices: tuple[str, ...] = ()
    note: str = ""
    estimated: Footprint = field(default_factory=Footprint)
    measured: Footprint | None = None
    n_slots: int = 0
    n_in_flight: int = 0
    n_waiting: int = 0
    n_leases: int = 0
    last_used: float = 0.0
    is_stalled: bool = False
    stats: EngineStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A model as it stands now: ready while one of its replicas is. `progress` in [0, 1] while loading, or pulling its
    file; `reason` says why it failed, and while pulling how far that is.

    `card` is there once it has been loaded, and is that of its first replica; `stats`, `n_slots` and `n_in_flight` are
    of all together. `n_pending` requests wait for it to be loaded. `heard` tells what their memories of prompts were
    good for, `thread_s` what their steps had, of those too that are gone.
    """

    name: str
    spec: ModelSpec | None = None  # by which it is served
    aliases: tuple[str, ...] = ()
    state: State = "unloaded"
    progress: float = 0.0
    reason: str = ""
    task: str = ""
    load: LoadMode = "start"
    n_slots: int = 0
    n_in_flight: int = 0
    n_pending: int = 0
    card: ModelCard | None = None
    stats: EngineStats | None = None
    heard: Heard = field(default_factory=Heard)
    thread_s: float = 0.0
    is_stalled: bool = False
    replicas: tuple[ReplicaStatus, ...] = ()
    adapters: tuple[AdapterStatus, ...] = ()

    @property
    def can_answer(self) -> bool:
        """Now, or as soon as it was loaded for whoever asks."""
        return self.state == "ready" or (self.load == "request" and self.state != "failed")
