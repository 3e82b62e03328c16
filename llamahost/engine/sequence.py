"""One job on its way, and the slot it may sit in. Knows tokens and counts; decides nothing.

A sequence has `n_computed` and a target; each step closes the gap:

    gap = len(tokens) + len(drafts) - n_computed

There is no prefill and no decode: a sequence whose gap is one is what others call decoding.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from llamahost.core.work import NO_ADAPTERS, Adapters, Job, Times, Tokens

NOWHERE = -1
"""The slot of a sequence that sits in none."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Owned by the scheduler. [0, n_computed) of `tokens` is in the slot; [0, n_cached) of it came from a cache."""

    job: Job
    order: int  # of arrival; also what makes two sequences differ in age
    tokens: Tokens
    times: Times  # but for the last of them
    last: float = 0.0
    slot: int = NOWHERE
    n_computed: int = 0
    n_cached: int = 0
    n_generated: int = 0
    n_reserved: int = 0  # unified: [0, n_reserved) has cells promised to it
    n_saved: int = 0  # positions in the saved state; [n_computed, n_saved) are rejected drafts
    drafts: tuple[int, ...] = ()
    has_begun: bool = False

    @property
    def gap(self) -> int:
        return len(self.tokens) + len(self.drafts) - self.n_computed

    @property
    def times_so_far(self) -> Times:
        return self.times._replace(last=self.last)

    @property
    def is_scored(self) -> bool:
        """Does it want the rows of its prompt? Then no part of that is taken from a cache: a cache holds no rows."""
        return self.job.n_prompt_logprobs is not None

    @property
    def is_saved(self) -> bool:
        return self.n_saved > 0

    @property
    def rank(self) -> tuple[int, int]:
        """Who goes first: higher priority, then earlier arrival."""
        return -self.job.priority, self.order


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one sequence's KV. While nobody sits in it, `kept` are the tokens whose KV is still there."""

    index: int
    sequence: Sequence | None = None
    kept: Tokens = field(default_factory=lambda: array("i"))
    adapters: Adapters = NO_ADAPTERS  # under which the KV was computed
    used_at: int = NOWHERE  # ticks of the table of slots; NOWHERE: never, or by somebody aside
    n_least: int = 0  # what it may be cut to, beside 0: less of it is not there

    @property
    def n(self) -> int:
        """How many positions hold KV."""
        return len(self.kept) if self.sequence is None else self.sequence.n_computed

    @property
    def tokens(self) -> Tokens:
        """The tokens known for it; only [0, n) of them are computed."""
        return self.kept if self.sequence is None else self.sequence.tokens
