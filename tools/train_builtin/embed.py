"""Train `builtin-embed` by contrast: texts that belong together come near, the others of a batch stay away.

InfoNCE with the batch's other documents as counter-examples (van den Oord et al., 2018). Minutes on one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llamahost import Host
from tools.train_builtin import export, sentences
from tools.train_builtin.pairs import Pair, held_questions, held_sentences, pairs
from tools.train_builtin.sentences import SentenceModel, SentenceShape
from tools.train_builtin.tokenizer import Encoder

TEMPERATURE = 0.05
HELD_SEED = 20_000_000
N_SENTENCES = 100
"""Among which a held-out sentence is looked for."""


@dataclass(frozen=True)
class EmbedPlan:
    """A run. Two runs with equal plans on one machine make the same weights."""

    vocabulary: Path  # a GGUF file that holds it
    out: Path
    n_steps: int = 2000
    n_pairs: int = 96  # of one step
    lr: float = 2e-3
    seed: int = 0
    n_threads: int = 2


def run(plan: EmbedPlan) -> None:
    torch.set_num_threads(plan.n_threads)
    vocabulary = export.read_vocabulary(plan.vocabulary)
    model = SentenceModel(SentenceShape(len(vocabulary.tokens)), plan.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.lr, total_steps=plan.n_steps, pct_start=0.1)
    source = pairs(plan.seed)
    began = time.monotonic()
    with Encoder(plan.vocabulary) as encoder:
        for step in range(plan.n_steps):
            loss = _loss(model, encoder, list(islice(source, plan.n_pairs)))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # by torch
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step % 20 == 19 or sys.stderr.isatty():
                left_s = (time.monotonic() - began) / (step + 1) * (plan.n_steps - step - 1)
                end = "" if sys.stderr.isatty() else "\n"
                text = f"{step + 1}/{plan.n_steps} steps  loss {float(loss.detach()):.3f}  {left_s / 60:.1f} min left"
                print(f"\r{text} ", end=end, file=sys.stderr, flush=True)
    sentences.write(plan.out, model, vocabulary)


def score(path: Path, n_threads: int | None = None) -> dict[str, tuple[int, int]]:
    """How many held-out queries find their own document first, and how many there are, through llamahost."""
    tasks: dict[str, Sequence[Pair]] = {
        "questions about llamahost, among their answers": held_questions(),
        f"made-up facts, among {N_SENTENCES}": held_sentences(HELD_SEED, N_SENTENCES),
    }
    found: dict[str, tuple[int, int]] = {}
    with Host(path, n_threads=n_threads) as host:
        for name, task in tasks.items():
            documents = list(dict.fromkeys(pair.document for pair in task))
            vectors = torch.tensor([list(each) for each in host.embed(documents).vectors])
            asked = torch.tensor([list(each) for each in host.embed([pair.query for pair in task]).vectors])
            first = (asked @ vectors.T).argmax(1).tolist()
            found[name] = (sum(documents[i] == pair.document for i, pair in zip(first, task, strict=True)), len(task))
    return found


def _loss(model: SentenceModel, encoder: Encoder, batch: Sequence[Pair]) -> Tensor:
    queries = _vectors(model, encoder, (pair.query for pair in batch))
    documents = _vectors(model, encoder, (pair.document for pair in batch))
    likeness = queries @ documents.T / TEMPERATURE
    keys = {key: n for n, key in enumerate(dict.fromkeys(pair.key for pair in batch))}
    owner = torch.tensor([keys[pair.key] for pair in batch])
    is_same = (owner[:, None] == owner[None, :]) & ~torch.eye(len(batch), dtype=torch.bool)
    likeness = likeness.masked_fill(is_same, -1e9)
    wanted = torch.arange(len(batch))
    return (cross_entropy(likeness, wanted) + cross_entropy(likeness.T, wanted)) / 2


def _vectors(model: SentenceModel, encoder: Encoder, texts: Iterator[str]) -> Tensor:
    found = [encoder.encode(text) for text in texts]
    tokens = torch.zeros(len(found), max(map(len, found)), dtype=torch.long)
    for row, each in zip(tokens, found, strict=True):
        row[: len(each)] = torch.tensor(each)
    vectors: Tensor = model(tokens, torch.tensor([len(each) for each in found]))
    return vectors
