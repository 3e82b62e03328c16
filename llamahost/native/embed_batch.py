"""How much a step of an embedding context holds, and what C reserves for it. Pure arithmetic; opens nothing."""

from __future__ import annotations

from dataclasses import dataclass

MAX_INPUTS = 64
"""Sequences of one step. More save nothing: by then a step is long enough to hide what it costs to begin."""

_MAX_ROWS_BYTES = 256 * 2**20
"""Of the logits that C reserves: a step holds fewer tokens on a large vocabulary."""

_FLOAT = 4


@dataclass(frozen=True, slots=True)
class EmbedBatch:
    """`n_tokens` of a step, in `n_inputs` sequences at most."""

    n_tokens: int
    n_inputs: int

    @classmethod
    def of(cls, n_ctx: int, n_least: int, n_vocab: int, *, can_split: bool) -> EmbedBatch:
        """`n_least` tokens, or an input of `n_ctx` where it must be computed in one piece."""
        n_rows = max(1, _MAX_ROWS_BYTES // (_FLOAT * max(1, n_vocab)))
        n_tokens = min(n_least, n_rows) if can_split else max(n_ctx, min(n_least, n_rows))
        n_inputs = min(MAX_INPUTS, n_tokens)
        return cls(-(-n_tokens // n_inputs) * n_inputs, n_inputs)  # C asserts that its trial batch divides evenly

    def output_bytes(self, n_vocab: int, n_dim: int) -> int:
        """What C comes to hold for the host: of each token its vector, and a row of logits, though nobody asks.

        At first there are as many as sequences, and its log tells no more.
        """
        return self.n_tokens * (n_vocab + n_dim) * _FLOAT
