"""How many tokens of prompts a step may carry. Knows seconds and counts; reads no clock.

The price of a prompt token is learned from the steps that carried some. A price taken at one size is too dear for a
larger one (every step has a fixed cost), but the next step is then larger and its price lower: the sizes converge to
the target, n' = target * n / (a + b * n), because the slope of that map at its fixed point is a / target < 1.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

MIN_CHUNK = 32
FIRST_CHUNK = 64
IDLE_FACTOR = 4
"""A step that delays no running stream may take this many times the target: newcomers and aborts still get in soon."""


def shares(needs: Items[int], budget: int) -> list[int]:
    """Split `budget` equally, in the order given; who needs less than its share leaves the rest to the others.

    Where there are more takers than tokens, the first ones get one each.
    """
    given = [0] * len(needs)
    left = budget
    by_need = sorted(range(len(needs)), key=needs.__getitem__)
    for place, taker in enumerate(by_need):
        takers = len(by_need) - place
        if left < takers:  # less than a token each: the oldest takers of those still unserved
            for late in sorted(by_need[place:])[:left]:
                given[late] = 1
            break
        given[taker] = min(needs[taker], left // takers)
        left -= given[taker]
    return given


class StepBudget:
    """Owned by the scheduler."""

    def __init__(self, *, target_step_s: float, n_batch: int) -> None:
        self.target_step_s = target_step_s
        self._n_batch = n_batch
        self._decode_s = 0.0  # a step that carries decode tokens alone
        self._token_s = 0.0  # a token of a prompt; 0.0: not known yet

    def chunk(self, n_decoding: int) -> int:
        """Tokens of prompts for a step that also carries `n_decoding` tokens of running streams."""
        if self._token_s == 0.0:
            n = FIRST_CHUNK
        elif n_decoding:
            n = int((self.target_step_s - self._decode_s) / self._token_s)
        else:
            n = int(IDLE_FACTOR * self.target_step_s / self._token_s)
        return min(max(n, MIN_CHUNK), self._n_batch - n_decoding)

    def observe(self, n_decoding: int, n_chunk: int, step_s: float) -> None:
        """Learn from a step that took `step_s`."""
        if step_s <= 0.0:
            return
        if n_chunk == 0:
            self._decode_s += (step_s - self._decode_s) * (0.2 if self._decode_s else 1.0)
            return
        of_chunk = max(step_s - self._decode_s, 0.2 * step_s) if n_decoding else step_s
        token_s = of_chunk / n_chunk
        if self._token_s == 0.0:
            self._token_s = token_s
            return
        # The tail of a prompt says little about a whole chunk, and a hiccup of the machine little about the next step.
        weight = 0.5 * min(1.0, n_chunk / max(self.chunk(n_decoding), 1))
        self._token_s += (min(token_s, 4 * self._token_s) - self._token_s) * weight
