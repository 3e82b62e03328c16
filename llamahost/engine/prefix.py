"""Find what of a prompt is computed already, or soon will be. Knows tokens and slots; changes nothing.

law: a hit names only KV that was computed for exactly these tokens, under the same adapters
law: the last token of a prompt is never taken from a cache: its row is what the next token is sampled from
law: memory that cannot be cut (recurrent, sliding window) is reused whole or not at all
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llamahost.core.work import Adapters, Tokens
from llamahost.engine.sequence import Sequence, Slot


@dataclass(frozen=True, slots=True)
class Promise:
    """`source` is about to have computed [0, n) of what somebody else wants as well."""

    source: Sequence
    n: int

    @property
    def is_open(self) -> bool:
        """Not yet kept, and still to be expected."""
        return self.source.slot >= 0 and self.source.n_computed < self.n


def common_prefix(a: Tokens, b: Tokens, limit: int) -> int:
    """How many leading tokens are equal, at most `limit`. Slices compare in C, so this halves instead of walking."""
    high = min(len(a), len(b), limit)
    if high <= 0 or a[0] != b[0]:
        return 0
    if a[:high] == b[:high]:
        return high
    low = 1  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def reusable(slot: Slot, tokens: Tokens, adapters: Adapters, *, can_truncate: bool) -> int:
    """How many leading positions of `slot` may stand for those of `tokens`."""
    n = slot.n
    if n == 0 or slot.adapters != adapters:
        return 0
    if can_truncate:
        n = common_prefix(slot.tokens, tokens, min(n, len(tokens) - 1))
        return n if n >= slot.n_least else 0
    return n if n < len(tokens) and slot.tokens[:n] == tokens[:n] else 0


def best_promise(running: Iterable[Sequence], tokens: Tokens, adapters: Adapters, at_least: int) -> Promise | None:
    """The longest prefix, of `at_least` tokens, that a running sequence is still computing."""
    best: Promise | None = None
    limit = len(tokens) - 1
    for source in running:
        if source.job.adapters != adapters or source.n_computed >= len(source.tokens) - 1:
            continue
        n = common_prefix(source.tokens, tokens, limit)
        if n <= source.n_computed or n < at_least:
            continue
        if best is None or (n, source.n_computed) > (best.n, best.source.n_computed):
            best = Promise(source, n)
    return best
