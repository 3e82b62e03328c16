"""How fast each model was of late, by the answers that it gave: moving means, nothing estimated. Is told the time.

What was measured long ago counts little beside what comes now, however few answers lie between: a mean over samples
that are not evenly spaced (Eckner, Algorithms for Unevenly Spaced Time Series, 2012).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

KEPT = 0.9
"""Of a mean, when the next value comes at once."""

HALF_LIFE_S = 60.0
"""After which half of that is kept."""


@dataclass(slots=True)
class Rate:
    """0 is what nothing is known of yet."""

    prompt_per_s: float = 0.0  # tokens computed of a prompt, once it sat in a slot
    tokens_per_s: float = 0.0  # of one answer
    n_generated: float = 0.0
    answer_s: float = 0.0  # from lease to end
    learnt_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What is to be learnt of one answer, or of several to one request. Seconds; 0 where it never got there."""

    n_computed: int = 0  # of the prompt
    prompt_s: float = 0.0
    n_generated: int = 0  # of each answer
    generation_s: float = 0.0
    total_s: float = 0.0


class Rates:
    """By model. Owned by the loop."""

    def __init__(self) -> None:
        self._rates: dict[str, Rate] = {}

    def of(self, model: str) -> Rate:
        return self._rates.get(model) or Rate()

    def keep(self, models: Container[str]) -> None:
        """Forget all but these."""
        self._rates = {name: rate for name, rate in self._rates.items() if name in models}

    def learn(self, model: str, answered: Answered, now: float) -> None:
        rate = self._rates.setdefault(model, Rate(learnt_at=now))
        kept = KEPT * 0.5 ** (max(0.0, now - rate.learnt_at) / HALF_LIFE_S)
        rate.learnt_at = now
        if answered.n_computed and answered.prompt_s > 0:
            rate.prompt_per_s = _mean(rate.prompt_per_s, answered.n_computed / answered.prompt_s, kept)
        if answered.n_generated > 1 and answered.generation_s > 0:
            rate.tokens_per_s = _mean(rate.tokens_per_s, (answered.n_generated - 1) / answered.generation_s, kept)
        if answered.n_generated:
            rate.n_generated = _mean(rate.n_generated, answered.n_generated, kept)
        if answered.total_s > 0:
            rate.answer_s = _mean(rate.answer_s, answered.total_s, kept)


def _mean(before: float, value: float, kept: float) -> float:
    return value if not before else kept * before + (1 - kept) * value
