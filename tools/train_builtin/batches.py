"""Examples one after the other in a flat step, each blind to its neighbours. Knows tokens and positions; no weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.train_builtin.draw import Example
from tools.train_builtin.render import pieces
from tools.train_builtin.tokenizer import Encoder


@dataclass(frozen=True)
class Encoded:
    tokens: tuple[int, ...]
    is_learned: tuple[bool, ...]


@dataclass(frozen=True)
class Batch:
    tokens: Tensor  # [n], example after example
    positions: Tensor  # [n], counted from each example's beginning
    lengths: tuple[int, ...]  # of the examples; they sum to n
    where: Tensor  # places whose next token is learned
    wanted: Tensor  # those next tokens

    def to(self, device: torch.device) -> Batch:
        moved = (getattr(self, name).to(device) for name in ("tokens", "positions", "where", "wanted"))
        tokens, positions, where, wanted = moved
        return Batch(tokens, positions, self.lengths, where, wanted)


def encode(encoder: Encoder, example: Example) -> Encoded:
    tokens: list[int] = []
    is_learned: list[bool] = []
    for piece in pieces(example):
        found = encoder.encode(piece.text)
        tokens += found
        is_learned += [piece.is_learned] * len(found)
    return Encoded(tuple(tokens), tuple(is_learned))


def packed(examples: Iterator[Encoded], *, n_step: int, n_longest: int) -> Iterator[Batch]:
    """At least `n_step` tokens each. Examples of more than `n_longest` are left out."""
    fitting = (each for each in examples if len(each.tokens) <= n_longest)
    while True:
        step: list[Encoded] = []
        n = 0
        while n < n_step:
            step.append(next(fitting))
            n += len(step[-1].tokens)
        yield _batch(step)


def _batch(step: list[Encoded]) -> Batch:
    where: list[int] = []
    wanted: list[int] = []
    at = 0
    for each in step:
        learned = [j for j in range(1, len(each.tokens)) if each.is_learned[j]]
        where += [at + j - 1 for j in learned]
        wanted += [each.tokens[j] for j in learned]
        at += len(each.tokens)
    return Batch(
        torch.tensor([token for each in step for token in each.tokens]),
        torch.cat([torch.arange(len(each.tokens)) for each in step]),
        tuple(len(each.tokens) for each in step),
        torch.tensor(where),
        torch.tensor(wanted),
    )
