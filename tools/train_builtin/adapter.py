"""Train a LoRA adapter for the built-in model: a style, as an example of adapters and for tests.

The base stays as it was shipped; beside each matrix of a block a product of two thin ones is learned (Hu et al., 2021),
from the same examples with every answer said as a pirate says it.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from tools.train_builtin import export, score
from tools.train_builtin.batches import Encoded, encode, packed
from tools.train_builtin.draw import Drawer
from tools.train_builtin.mixture import KINDS
from tools.train_builtin.model import Model
from tools.train_builtin.style import STYLED, in_style
from tools.train_builtin.tokenizer import Encoder

PARTS = ("attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class AdapterPlan:
    """A run. Two runs with equal plans on one machine make the same weights."""

    base: Path
    out: Path
    rank: int = 8
    alpha: float = 16.0
    n_steps: int = 600
    n_step: int = 2048  # tokens of a step, at least
    n_longest: int = 256  # tokens of an example
    lr: float = 3e-3
    seed: int = 0
    n_threads: int = 2


class Thin(nn.Module):
    """A frozen linear layer, and what is learned beside it."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.a = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.base(x) + self.scale * linear(linear(x, self.a), self.b)
        return made


def run(plan: AdapterPlan) -> None:
    torch.set_num_threads(plan.n_threads)
    torch.manual_seed(plan.seed)
    model, _ = export.read(plan.base)
    thin = _widened(model, plan)
    parameters = [each for one in thin.values() for each in (one.a, one.b)]
    optimiser = torch.optim.AdamW(parameters, lr=plan.lr, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.lr, total_steps=plan.n_steps, pct_start=0.05)
    began = time.monotonic()
    with Encoder(plan.base) as encoder:
        batches = packed(_examples(plan.seed, encoder), n_step=plan.n_step, n_longest=plan.n_longest)
        for step, batch in enumerate(itertools.islice(batches, plan.n_steps)):
            hidden = model.hidden(batch.tokens, batch.positions, batch.lengths)
            loss = cross_entropy(model.logits(hidden[batch.where]).float(), batch.wanted)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # by torch
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            if step % 20 == 19:
                left_s = (time.monotonic() - began) / (step + 1) * (plan.n_steps - step - 1)
                text = f"{step + 1}/{plan.n_steps} steps  loss {float(loss.detach()):.3f}  {left_s / 60:.1f} min left"
                print(text, file=sys.stderr, flush=True)
    _write(plan, thin)
    print(score.styled_table(plan.base, plan.out, n_threads=plan.n_threads))


def _widened(model: Model, plan: AdapterPlan) -> dict[str, Thin]:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    thin: dict[str, Thin] = {}
    for n, block in enumerate(model.blk):
        for part in PARTS:
            thin[f"blk.{n}.{part}"] = one = Thin(getattr(block, part), plan.rank, plan.alpha / plan.rank)
            setattr(block, part, one)
    return thin


def _examples(seed: int, encoder: Encoder) -> Iterator[Encoded]:
    d = Drawer(seed)
    while True:
        example = KINDS[d.pick(STYLED)][0](d)
        if not example.is_thinking and not example.tools:
            yield encode(encoder, in_style(example))


def _write(plan: AdapterPlan, thin: dict[str, Thin]) -> None:
    writer = gguf.GGUFWriter(plan.out, "qwen2")
    writer.add_type("adapter")
    writer.add_name("pirate")
    writer.add_description("A style for the built-in model of llamahost: answers as a pirate says them.")
    writer.add_license("MIT")
    writer.add_author("llamahost")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", plan.alpha)
    for name, one in thin.items():
        for side, tensor in (("a", one.a), ("b", one.b)):
            data = tensor.detach().numpy().astype(np.float16)
            writer.add_tensor(f"{name}.weight.lora_{side}", data)
    export.finish(writer)
