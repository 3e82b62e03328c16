"""How fast each model was of late, by the answers that it gave: moving means, nothing estimated."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

KEPT = 0.9
"""Of a mean, when the next value comes."""


@dataclass(slots=True)
class Rate:
    """0 is what nothing is known of yet."""

    prompt_per_s: float = 0.0  # tokens computed of a prompt, once it sat in a slot
    tokens_per_s: float = 0.0  # of one answer
    n_generated: float = 0.0
    answer_s: float = 0.0  # from lease to end


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

    def learn(self, model: str, answered: Answered) -> None:
        rate = self._rates.setdefault(model, Rate())
        if answered.n_computed and answered.prompt_s > 0:
            rate.prompt_per_s = _mean(rate.prompt_per_s, answered.n_computed / answered.prompt_s)
        if answered.n_generated > 1 and answered.generation_s > 0:
            rate.tokens_per_s = _mean(rate.tokens_per_s, (answered.n_generated - 1) / answered.generation_s)
        if answered.n_generated:
            rate.n_generated = _mean(rate.n_generated, answered.n_generated)
        if answered.total_s > 0:
            rate.answer_s = _mean(rate.answer_s, answered.total_s)


def _mean(before: float, value: float) -> float:
    return value if not before else KEPT * before + (1 - KEPT) * value
