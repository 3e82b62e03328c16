"""How many tokens of prompts a step may carry. Knows seconds and counts; reads no clock.

The price of a prompt token is learned from the steps that carried some; one that is scored has a price of its own, as a
row of the whole vocabulary is computed and read for it. A price taken at one size is too dear for a
larger one (every step has a fixed cost), but the next step is then larger and its price lower: the sizes converge to
the target, n' = target * n / (a + b * n), because the slope of that map at its fixed point is a / target < 1.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

MIN_CHUNK = 32
FIRST_CHUNK = 64
UNFELT = 0.02
"""What forced tokens of some streams may add to a step, of what it takes, where others wait for it."""

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
        self._scored_s = 0.0  # one that is scored

    def chunk(self, n_decoding: int) -> int:
        """Tokens of prompts for a step that also carries `n_decoding` tokens of running streams."""
        return self._affordable(self._token_s, n_decoding)

    def scored(self, n_decoding: int) -> int:
        """The same, where all of them are scored."""
        return self._affordable(self._scored_s, n_decoding)

    @property
    def unfelt(self) -> int:
        """Tokens by which a step may grow, beyond one for each stream in it, and hardly delay them."""
        return int(UNFELT * self._decode_s / self._token_s) if self._token_s else 0

    def observe(self, n_decoding: int, n_chunk: int, step_s: float, n_scored: int = 0) -> None:
        """Learn from a step that took `step_s`; `n_chunk` tokens of prompts were not scored."""
        if step_s <= 0.0:
            return
        if n_chunk == n_scored == 0:
            self._decode_s += (step_s - self._decode_s) * (0.2 if self._decode_s else 1.0)
            return
        others_s = self._decode_s if n_decoding else 0.0
        if n_scored:
            others_s += n_chunk * self._token_s
            token_s = max(step_s - others_s, 0.2 * step_s) / n_scored
            self._scored_s = _learned(self._scored_s, token_s, n_scored / max(self.scored(n_decoding), 1))
        else:
            token_s = max(step_s - others_s, 0.2 * step_s) / n_chunk
            self._token_s = _learned(self._token_s, token_s, n_chunk / max(self.chunk(n_decoding), 1))

    def _affordable(self, token_s: float, n_decoding: int) -> int:
        if token_s == 0.0:
            n = FIRST_CHUNK
        elif n_decoding:
            n = int((self.target_step_s - self._decode_s) / token_s)
        else:
            n = int(IDLE_FACTOR * self.target_step_s / token_s)
        return min(max(n, MIN_CHUNK), self._n_batch - n_decoding)


def _learned(known_s: float, token_s: float, part: float) -> float:
    """The price after one more was seen, in a step that was such a part of a whole chunk.

    The tail of a prompt says little about a whole chunk, and a hiccup of the machine little about the next step.
    """
    if known_s == 0.0:
        return token_s
    return known_s + (min(token_s, 4 * known_s) - known_s) * 0.5 * min(1.0, part)
