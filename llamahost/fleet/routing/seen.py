"""What routing asks of a fleet: how its models stand, and leases on them. Knows no model; a fleet is such."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from llamahost.fleet.replica.replica import Replica
from llamahost.fleet.routing.policy import ReplicaView, Wants


class Seen(Protocol):
    """What is to be known of a model, as it stands: `place.Place` is such. Asked for by each request to a route."""

    @property
    def name(self) -> str: ...

    @property
    def is_ready(self) -> bool: ...

    @property
    def is_coming(self) -> bool:
        """Whether it loads."""
        ...

    def n_may_wait(self, waits: bool | None) -> int:
        """Answers that may still wait for it to come, where a request has it come; `waits` is what that says of it."""
        ...

    def views(self) -> Sequence[ReplicaView]:
        """Of its replicas."""
        ...

    @property
    def n_room(self) -> int:
        """Requests that its ready replicas could still take."""
        ...

    @property
    def n_slots(self) -> int: ...

    @property
    def n_in_flight(self) -> int: ...

    @property
    def task(self) -> str:
        """What it is for; `auto` where that is not known yet."""
        ...

    @property
    def known(self) -> SeenCard | None:
        """What it can do, as far as a load of it has told."""
        ...


class SeenCard(Protocol):
    """What a model can be asked for."""

    @property
    def generates(self) -> bool: ...

    @property
    def has_chat_template(self) -> bool: ...

    @property
    def fills_in(self) -> bool: ...

    @property
    def pooling(self) -> str | None: ...


class Leases(Protocol):
    """What a router asks of a fleet."""

    @property
    def is_draining(self) -> bool: ...

    def lease(self, name: str, n_jobs: int = 1, *, wants: Wants = ...) -> AbstractAsyncContextManager[Replica]: ...

    def seen(self) -> Sequence[Seen]: ...

    def seen_of(self, names: Iterable[str]) -> Sequence[Seen]:
        """Of these, those that there are: of thousands of models a route has few."""
        ...
