"""What the slots of unloaded models held, in this machine's memory and within a budget, until they come back.

Owned by the loop. Knows bytes and keys; what a key is made of, its caller knows: another file or shape is another key.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from llamahost.core.work import KeptSlot


@dataclass(frozen=True, slots=True)
class Kept:
    """What a replica held. `key` is what fits it, `replica` its id, and `n_replicas` how many its model has."""

    key: Hashable
    replica: str
    slots: tuple[KeptSlot, ...]
    n_replicas: int = 1

    def is_alike(self, other: Kept) -> bool:
        """Of the same model, and fit for the same."""
        return self.key == other.key and model_of(self.replica) == model_of(other.replica)


class KeptPrefixes:
    """Those that were put here the longest ago go first where the budget is short."""

    def __init__(self) -> None:
        self._all: list[Kept] = []  # the oldest first

    @property
    def n_bytes(self) -> int:
        return sum(len(slot.state) for kept in self._all for slot in kept.slots)

    def put(self, kept: Kept, n_most: int) -> list[Kept]:
        """Keep this in place of what the replica held before, and no more than `n_most` bytes in all; what had to go.

        Of a model there is no more than it has replicas: what is older, others hold by now.
        """
        alike = [each for each in self._all if each.is_alike(kept)]
        others = [each for each in alike if each.replica != kept.replica]
        stays = others[max(0, len(others) + 1 - kept.n_replicas) :]
        self._all = [each for each in self._all if each not in alike or each in stays]
        if kept.slots:
            self._all.append(kept)
        return self.fit(n_most)

    def fit(self, n_most: int) -> list[Kept]:
        """No more than this in all; what had to go."""
        gone = []
        while self._all and self.n_bytes > n_most:
            gone.append(self._all.pop(0))
        return gone

    def has(self, key: Hashable) -> bool:
        """Whether there is something that fits, whosesoever."""
        return any(each.key == key for each in self._all)

    def take(self, key: Hashable, replica: str, *, is_own: bool = False) -> tuple[KeptSlot, ...]:
        """They are in the model again; nothing where there are none, or where none `is_own`."""
        known = {
            each.replica: each for each in self._all if each.key == key and (each.replica == replica or not is_own)
        }
        meant = nearest(replica, tuple(known))
        if meant is None:
            return ()
        self._all.remove(known[meant])
        return known[meant].slots

    def take_all(self) -> list[Kept]:
        """Everything."""
        found, self._all = self._all, []
        return found


def model_of(replica: str) -> str:
    return replica.rpartition("#")[0]


def nearest(replica: str, known: Sequence[str]) -> str | None:
    """Whose it takes over: its own, else its model's, else what fits; of several the last."""
    model = model_of(replica)
    of_model = [each for each in known if model_of(each) == model]
    return replica if replica in known else next(iter((of_model or list(known))[::-1]), None)
