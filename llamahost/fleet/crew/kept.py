"""What the slots of unloaded models held, in this machine's memory and within a budget, until they come back.

Owned by the loop. Knows bytes and keys; what a key is made of, its caller knows: another file or shape is another key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from llamahost.core.work import KeptSlot

Kept = tuple[Hashable, tuple[KeptSlot, ...]]
"""A key and what it stands for."""


class KeptPrefixes:
    """Those that were put here the longest ago go first where the budget is short."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[Hashable, tuple[KeptSlot, ...]] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        return sum(len(slot.state) for slots in self._by_key.values() for slot in slots)

    def put(self, key: Hashable, slots: tuple[KeptSlot, ...], n_most: int) -> list[Kept]:
        """Keep these, in place of others of the same key, and no more than `n_most` bytes in all; what had to go."""
        self._by_key.pop(key, None)
        if slots:
            self._by_key[key] = slots
        gone = []
        while self._by_key and self.n_bytes > n_most:
            gone.append(self._by_key.popitem(last=False))
        return gone

    def take(self, key: Hashable) -> tuple[KeptSlot, ...]:
        """They are in the model again; nothing where there are none."""
        return self._by_key.pop(key, ())

    def take_all(self) -> list[Kept]:
        """Everything."""
        found = list(self._by_key.items())
        self._by_key.clear()
        return found
