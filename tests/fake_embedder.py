"""An embedding backend that keeps the laws of core.work.EmbedBackend by asserting them, and computes with a sum."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from llamahost.core.work import Pooling, Tokens, Vector


def vector_of(tokens: Sequence[int]) -> list[float]:
    return [float(sum(tokens)), float(len(tokens))]


@dataclass
class FakeEmbedBackend:
    """Keeps the laws of core.work.EmbedBackend by asserting them. `now` is a clock that its steps advance."""

    n_ctx: int = 64
    n_batch: int = 32
    n_enough: int = 2**20
    n_inputs: int = 8
    n_dim: int = 2
    pooling: Pooling = "mean"
    has_probabilities: bool = False
    overlaps: bool = False
    token_s: float = 0.0001
    failures: dict[int, Exception] = field(default_factory=dict)
    n_lost: int = 0  # vectors that are missing from every step: a backend that breaks its laws
    now: float = 0.0
    is_closed: bool = False
    steps: list[list[list[int]]] = field(default_factory=list)

    def embed(self, inputs: Sequence[Tokens]) -> list[Vector]:
        assert not self.is_closed
        assert 1 <= len(inputs) <= self.n_inputs
        assert all(1 <= len(tokens) <= self.n_ctx for tokens in inputs)
        n_tokens = sum(map(len, inputs))
        assert n_tokens <= self.n_batch or len(inputs) == 1
        self.steps.append([list(tokens) for tokens in inputs])
        self.now += self.token_s * n_tokens
        failure = self.failures.get(len(self.steps) - 1)
        if failure is not None:
            raise failure
        return [array("f", vector_of(tokens)) for tokens in inputs[self.n_lost :]]

    def close(self) -> None:
        self.is_closed = True
