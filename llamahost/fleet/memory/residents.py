"""What residency knows of models and replicas, and what it may ask to be done. Decides nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from llamahost.fleet.machine.fit import Shape
from llamahost.fleet.machine.footprint import FileFacts, Footprint
from llamahost.fleet.memory.placement import Bytes, Placement
from llamahost.fleet.settings.manifest import ModelSpec

MODELS = "#models"
"""Counted like the bytes of a device: how many models may be in memory."""

STAY_S = 10.0
"""At most; a replica that was just loaded stays in use as long as its load took, before it leaves for another model:
then models that take turns spend half of their time on loads at most."""
PAUSE_S = 1.0
"""Without a lease, after which it may leave all the same."""

ReplicaState = Literal["loading", "ready", "draining", "unloading"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a replica takes in truth: of each device, and in which parts."""

    bytes: Bytes
    footprint: Footprint


@dataclass(frozen=True, slots=True)
class Look:
    """Read the header of this model's file; tell `looked` or `failed_look`, with the same turn."""

    name: str
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """Open this replica; tell `loaded` or `failed`."""

    replica: str
    spec: ModelSpec
    placement: Placement


@dataclass(frozen=True, slots=True)
class Unload:
    """Close this replica, which nobody uses; tell `unloaded`."""

    replica: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Whoever waits for this model waits in vain. `is_news`: why was decided here and now, and nobody has said it."""

    name: str
    reason: str
    retry_after_s: float
    is_news: bool = False


Effect = Look | Load | Unload | Refuse


@dataclass(slots=True)
class Replica:
    """One copy of a model. `bytes` are what it was granted, then what it was measured to take."""

    id: str
    placement: Placement
    bytes: Bytes
    last_used: float
    state: ReplicaState = "loading"
    n_leases: int = 0
    ready_at: float = math.inf
    is_doomed: bool = False  # unloaded as soon as it is loaded
    is_old: bool = False  # made for settings that are no more; it answers until another is there in its place
    made_for: ModelSpec | None = None
    stays_until: float = -math.inf
    seen: object = None  # by which its file is known
    reason: str = ""

    @property
    def is_leaving(self) -> bool:
        return self.is_doomed or self.state in ("draining", "unloading")

    def young_until(self, now: float) -> float:
        """Until when others wait for it to have been of use; -inf where they need not. A clock may go back."""
        if self.state != "ready" or not self.ready_at <= now < self.stays_until:
            return -math.inf
        until = self.stays_until if self.n_leases else min(self.stays_until, self.last_used + PAUSE_S)
        return until if now < until else -math.inf


@dataclass(slots=True)
class Model:
    """A model of the manifest. `wanted_at` is since when somebody asks for a replica that is not there."""

    spec: ModelSpec
    facts: FileFacts | None = None  # as the file is now; asked for anew before each load
    measured: dict[Shape, Footprint] = field(default_factory=dict)  # of loads of a file that is still the same
    is_looking: bool = False
    look: int = 0  # the turn of the look that counts: a manifest may name another file meanwhile
    wanted_at: float | None = None
    turn: int = 0  # in which it is served; a clock may stand still, or go back
    retry_at: float = -math.inf
    again_at: float = math.inf  # when it looks for room by itself
    seen: object = None  # by which the file that was measured is known
    n_failures: int = 0
    n_lost: int = 0
    n_lacking: int = 0  # replicas that are to be there beside the first, and have no room or could not be loaded
    may_evict: bool = True  # others, to have what it wants
    n_skipped: int = 0  # shapes that were granted and did not fit in truth
    reason: str = ""
    is_gone: bool = False  # from the manifest
    replicas: list[Replica] = field(default_factory=list)

    @property
    def live(self) -> list[Replica]:
        return [each for each in self.replicas if each.state in ("loading", "ready") and not each.is_doomed]

    @property
    def current(self) -> list[Replica]:
        """Those that are as the manifest says."""
        return [each for each in self.live if not each.is_old]

    @property
    def old(self) -> list[Replica]:
        """Those that answer until others are there in their place."""
        return [each for each in self.live if each.is_old]

    @property
    def idle_since(self) -> float:
        """When one of its replicas was used last; infinite while one is, or loads. One alone does not idle: it would be
        loaded again at once.
        """
        if any(each.state == "loading" or each.n_leases for each in self.live):
            return math.inf
        return max((each.last_used for each in self.live), default=math.inf)

    @property
    def comes_again(self) -> bool:
        """Whether it is tried again though nobody asks: what replaces others, or is to be there from the start."""
        if self.wanted_at is not None or self.is_gone:
            return False
        if not self.replicas:  # as of most, where there are thousands
            return self.spec.load == "start"
        return not self.current and (self.spec.load == "start" or bool(self.old))

    @property
    def is_ready(self) -> bool:
        return any(each.state == "ready" for each in self.replicas)
