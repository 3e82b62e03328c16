"""Examples packed into rows of tokens, each example blind to its neighbours. Knows tokens and positions; no weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
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
    tokens: Tensor  # [rows, n]
    positions: Tensor  # counted from each example's beginning
    mask: Tensor  # [rows, 1, n, n]: who may look at whom
    where: Tensor  # flat places whose next token is learned
    wanted: Tensor  # those next tokens

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, name).to(device) for name in ("tokens", "positions", "mask", "where", "wanted")))


def encode(encoder: Encoder, example: Example) -> Encoded:
    tokens: list[int] = []
    is_learned: list[bool] = []
    for piece in pieces(example):
        found = encoder.encode(piece.text)
        tokens += found
        is_learned += [piece.is_learned] * len(found)
    return Encoded(tuple(tokens), tuple(is_learned))


def packed(examples: Iterator[Encoded], *, n_rows: int, n_row: int, n_waiting: int = 64) -> Iterator[Batch]:
    """Rows filled with the longest waiting example that fits. Examples longer than a row are left out."""
    waiting: list[Encoded] = []
    while True:
        rows: list[list[Encoded]] = []
        for _ in range(n_rows):
            row: list[Encoded] = []
            n_left = n_row
            while True:
                while len(waiting) < n_waiting:
                    new = next(examples)
                    if len(new.tokens) <= n_row:
                        waiting.append(new)
                fitting = [i for i, each in enumerate(waiting) if len(each.tokens) <= n_left]
                if not fitting:
                    break
                first = fitting[0] if not row else max(fitting, key=lambda i: len(waiting[i].tokens))
                chosen = waiting.pop(first)
                row.append(chosen)
                n_left -= len(chosen.tokens)
            rows.append(row)
        yield _batch(rows, n_row)


def _batch(rows: list[list[Encoded]], n_row: int) -> Batch:
    tokens = np.zeros((len(rows), n_row), np.int64)
    positions = np.zeros((len(rows), n_row), np.int64)
    owner = np.full((len(rows), n_row), -1, np.int64)
    where: list[int] = []
    wanted: list[int] = []
    for i, row in enumerate(rows):
        at = 0
        for n, each in enumerate(row):
            end = at + len(each.tokens)
            tokens[i, at:end] = each.tokens
            positions[i, at:end] = np.arange(len(each.tokens))
            owner[i, at:end] = n
            for j in range(1, len(each.tokens)):
                if each.is_learned[j]:
                    where.append(i * n_row + at + j - 1)
                    wanted.append(each.tokens[j])
            at = end
    causal = np.tril(np.ones((n_row, n_row), bool))
    mask = (owner[:, :, None] == owner[:, None, :]) & causal
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(mask[:, None]),
        torch.tensor(where),
        torch.tensor(wanted),
    )
