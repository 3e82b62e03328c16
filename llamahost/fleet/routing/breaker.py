"""Keep requests away from a replica that fails: the circuit breaker. Pure: it is told the time.

law: `n_failures` in a row open it, whoever had them, and nothing passes for `open_s`
law: then one request passes as a probe, and one alone; its first token closes it, its failure opens it anew
law: requests that were under way together when one failed tell nothing more: one failed step is one failure
"""

from __future__ import annotations

import math

NOBODY = 0


class Breaker:
    """Owned by the loop. Ask `is_open`, then `enter`, then give the ticket to one of `succeeded`, `failed`, `left`."""

    __slots__ = ("_n_entered", "_n_in_row", "_n_stale", "_open_until", "_probe", "n_failures", "open_s")

    def __init__(self, *, n_failures: int = 2, open_s: float = 60.0) -> None:
        self.n_failures = n_failures
        self.open_s = open_s
        self._n_in_row = 0
        self._n_entered = 0
        self._n_stale = 0  # tickets [1, n_stale] were under way at the last failure
        self._open_until = -math.inf
        self._probe = NOBODY

    @property
    def is_closed(self) -> bool:
        return self._n_in_row < self.n_failures

    def is_open(self, now: float) -> bool:
        """May nothing pass now?"""
        return self._n_in_row >= self.n_failures and (self._probe != NOBODY or now < self._open_until)

    def enter(self) -> int:
        """A request passes; where the breaker is not closed, as the probe. Its ticket."""
        self._n_entered += 1
        if self._n_in_row >= self.n_failures and self._probe == NOBODY:
            self._probe = self._n_entered
        return self._n_entered

    def answers(self, ticket: int) -> None:
        """Its first token is there. To a probe that is success: the rest may take minutes."""
        if ticket == self._probe:
            self.succeeded(ticket)

    def succeeded(self, ticket: int) -> None:
        self.left(ticket)
        if ticket > self._n_stale:
            self._n_in_row = 0

    def failed(self, ticket: int, now: float) -> None:
        self.left(ticket)
        if ticket <= self._n_stale:
            return
        self._n_stale = self._n_entered
        self._n_in_row = min(self._n_in_row + 1, self.n_failures)
        if not self.is_closed:
            self._open_until = now + self.open_s

    def left(self, ticket: int) -> None:
        """It ended without saying anything of the replica: its client left, or it was itself at fault."""
        if ticket == self._probe:
            self._probe = NOBODY
