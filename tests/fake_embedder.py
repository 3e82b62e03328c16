"""An embedding backend that keeps the laws of core.backend.EmbedBackend by asserting them, and computes with a sum."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from llamahost.core.work import Pooling, Tokens, Vector


def vector_of(tokens: Sequence[int]) -> list[float]:
    return [float(sum(tokens)), float(len(tokens))]


@dataclass
class FakeEmbedBackend:
    """Keeps the laws of core.backend.EmbedBackend by asserting them. `now` is a clock that its steps advance."""

    n_ctx: int = 64
    n_batch: int = 32
    n_enough: int = 2**20
    n_inputs: int = 8
    n_dim: int = 2
    can_split: bool = True
    pooling: Pooling = "mean"
    has_probabilities: bool = False
    overlaps: bool = False
    token_s: float = 0.0001
    failures: dict[int, Exception] = field(default_factory=dict)
    n_lost: int = 0  # vectors that are missing from every step: a backend that breaks its laws
    now: float = 0.0
    is_closed: bool = False
    steps: list[list[list[int]]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)  # of an input that is not at its end

    def embed(self, inputs: Sequence[Tokens]) -> list[Vector]:
        assert not self.is_closed
        assert 1 <= len(inputs) <= self.n_inputs
        assert all(1 <= len(tokens) <= self.n_ctx for tokens in inputs)
        n_tokens = sum(map(len, inputs))
        assert n_tokens <= self.n_batch
        self.held = []
        self._computed([list(tokens) for tokens in inputs])
        return [array("f", vector_of(tokens)) for tokens in inputs[self.n_lost :]]

    def embed_piece(self, tokens: Tokens, start: int, stop: int) -> Vector | None:
        assert not self.is_closed
        assert self.can_split
        assert 0 <= start < stop <= len(tokens) <= self.n_ctx
        assert stop - start <= self.n_batch
        assert list(tokens[:start]) == (self.held if start else [])
        self.held = []
        self._computed([list(tokens[start:stop])])
        if stop < len(tokens):
            self.held = list(tokens[:stop])
            return None
        return array("f", vector_of(tokens))

    def close(self) -> None:
        self.is_closed = True

    def _computed(self, step: list[list[int]]) -> None:
        self.steps.append(step)
        self.now += self.token_s * sum(map(len, step))
        failure = self.failures.get(len(self.steps) - 1)
        if failure is not None:
            raise failure
