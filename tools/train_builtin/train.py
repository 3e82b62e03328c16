"""The training loop: examples in, checkpoints and a GGUF file out; stopped and resumed at will.

A checkpoint is one file with everything. SIGTERM and SIGINT end the run after the step in progress, with a checkpoint.
"""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tools.train_builtin import export
from tools.train_builtin.batches import Batch, Encoded, encode, packed
from tools.train_builtin.mixture import stream
from tools.train_builtin.model import Model, initialise
from tools.train_builtin.optimiser import optimisers, scale
from tools.train_builtin.render import pieces
from tools.train_builtin.shape import Shape
from tools.train_builtin.tokenizer import Encoder, Vocabulary, learn

VOCABULARY = "vocabulary.gguf"
CHECKPOINT = "checkpoint.pt"
N_TEXTS = 12000
"""Examples that the vocabulary is learned from."""


@dataclass(frozen=True)
class Plan:
    """A run. Two runs with equal plans on one machine make the same weights."""

    folder: Path
    n_tokens: int
    n_decay: int
    n_warm: int = 40_000
    seed: int = 0
    lr: float = 0.012
    lr_rest: float = 0.003
    n_step: int = 3072  # tokens of a step, at least
    n_longest: int = 640  # tokens of an example
    long_every: int = 8  # each so-manieth step fills whole contexts
    save_every_s: float = 180.0
    device: str = "cpu"
    n_threads: int = 2


@dataclass
class State:
    """Owned by `run`."""

    model: Model
    vocabulary: Vocabulary
    n_steps: int = 0
    n_seen: int = 0


def vocabulary_of(seed: int, n_vocab: int) -> Vocabulary:
    texts = stream(seed, lambda: 1.0)
    return learn(("".join(p.text for p in pieces(next(texts))) for _ in range(N_TEXTS)), n_vocab)


def fresh(seed: int, shape: Shape, known: Path) -> State:
    """Random weights. The vocabulary is learned, or taken from the file of an earlier run where one lies."""
    vocabulary = export.read_vocabulary(known) if known.is_file() else vocabulary_of(seed, shape.n_vocab)
    model = Model(Shape(**{**asdict(shape), "n_vocab": len(vocabulary.tokens)}))
    initialise(model, seed)
    return State(model, vocabulary)


def from_gguf(path: Path) -> State:
    """What was shipped, to train on: its optimisers begin anew."""
    model, notes = export.read(path)
    return State(model, export.read_vocabulary(path), n_seen=notes.n_tokens_seen)


def from_checkpoint(path: Path) -> tuple[State, list[dict[str, Any]]]:
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = Model(Shape(**saved["shape"]))
    model.load_state_dict(saved["model"])
    vocabulary = Vocabulary(tuple(saved["tokens"]), tuple(saved["merges"]))
    return State(model, vocabulary, saved["n_steps"], saved["n_seen"]), saved["optimisers"]


@torch.no_grad()
def mean(states: list[State]) -> State:
    """The mean of weights that one run went through: what it swings about is better than where it happens to be."""
    last = states[-1]
    others = [dict(state.model.named_parameters()) for state in states]
    for name, parameter in last.model.named_parameters():
        parameter.copy_(sum(each[name] for each in others) / len(others))
    return State(last.model, last.vocabulary, last.n_steps, max(state.n_seen for state in states))


def to_mean(folders: list[Path]) -> None:
    """Sets the checkpoints of runs that began alike, and saw other examples, to their mean; each goes on from there.

    Local SGD (Stich 2018, arXiv:1805.09767): steps of their own, means now and then. Optimisers stay each run's own.
    """
    paths = [folder / CHECKPOINT for folder in folders]
    state = mean([from_checkpoint(path)[0] for path in paths])
    for path in paths:
        _replace(path, torch.load(path, map_location="cpu", weights_only=True) | {"model": state.model.state_dict()})


def run(plan: Plan, state: State, saved: list[dict[str, Any]] | None = None) -> None:
    """Trains `state` until the plan's tokens are seen, or until it is told to stop."""
    torch.set_num_threads(plan.n_threads)
    plan.folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(plan.device)
    model = state.model.to(device)
    steppers = optimisers(model, lr=plan.lr, lr_rest=plan.lr_rest)
    for one, old in zip(steppers, saved or [], strict=False):
        one.load_state_dict(old)
        for group, peak in zip(one.param_groups, (plan.lr if one is steppers[0] else plan.lr_rest,), strict=True):
            group["peak"] = peak
    vocab_path = plan.folder / VOCABULARY
    export.write_vocabulary(vocab_path, state.vocabulary)
    n_first = state.n_seen
    stopped = _Stop()
    saved_at = time.monotonic()
    with Encoder(vocab_path) as encoder, (plan.folder / "log.csv").open("a", newline="") as log:
        rows = csv.writer(log)
        usual, long = _sources(plan, state, encoder, n_first)
        began, n_since = time.monotonic(), 0
        mean: float | None = None
        while state.n_seen < plan.n_tokens and not stopped:
            is_long = plan.long_every and state.n_steps % plan.long_every == plan.long_every - 1
            batch = next(long if is_long else usual).to(device)
            n_before = n_first if saved is None else 0  # optimisers that begin anew warm up again
            size = scale(state.n_seen - n_before, plan.n_tokens - n_before, plan.n_warm, plan.n_decay)
            loss = _step(model, batch, steppers, size)
            mean = loss if mean is None else 0.95 * mean + 0.05 * loss
            state.n_steps += 1
            state.n_seen += batch.tokens.numel()
            n_since += batch.tokens.numel()
            rate = n_since / (time.monotonic() - began)
            rows.writerow([state.n_steps, state.n_seen, f"{loss:.4f}", f"{mean:.4f}", f"{size:.3f}", f"{rate:.0f}"])
            log.flush()
            _show(state, plan, mean, rate)
            if time.monotonic() - saved_at > plan.save_every_s:
                save(plan.folder, state, steppers)
                saved_at = time.monotonic()
    save(plan.folder, state, steppers)
    if sys.stderr.isatty():
        print(file=sys.stderr)


def save(folder: Path, state: State, steppers: list[torch.optim.Optimizer]) -> None:
    _replace(
        folder / CHECKPOINT,
        {
            "shape": asdict(state.model.shape),
            "model": state.model.state_dict(),
            "tokens": list(state.vocabulary.tokens),
            "merges": list(state.vocabulary.merges),
            "n_steps": state.n_steps,
            "n_seen": state.n_seen,
            "optimisers": [one.state_dict() for one in steppers],
        },
    )


def _replace(path: Path, saved: dict[str, Any]) -> None:
    """Whole or not at all: a power cut leaves the last one."""
    new = path.with_suffix(".new")
    torch.save(saved, new)
    os.replace(new, path)  # noqa: PTH105  atomic, and over what is there


def _sources(plan: Plan, state: State, encoder: Encoder, n_first: int) -> tuple[Iterator[Batch], Iterator[Batch]]:
    seed = plan.seed * 1_000_003 + n_first  # a resumed run goes on with other examples

    pieces = state.vocabulary.word_pieces()

    def examples(salt: int) -> Iterator[Encoded]:
        made = stream(seed + salt, lambda: state.n_seen / plan.n_tokens if n_first == 0 else 1.0, pieces)
        return (encode(encoder, example) for example in made)

    n_ctx = state.model.shape.n_ctx
    usual = packed(examples(0), n_step=plan.n_step, n_longest=plan.n_longest)
    return usual, packed(_chained(examples(1), n_ctx), n_step=plan.n_step, n_longest=n_ctx)


def _chained(examples: Iterator[Encoded], n_ctx: int) -> Iterator[Encoded]:
    """Whole contexts: conversations one after the other, read as one, so that far positions are known too."""
    tokens: list[int] = []
    is_learned: list[bool] = []
    for each in examples:
        if len(tokens) + len(each.tokens) > n_ctx:
            yield Encoded(tuple(tokens), tuple(is_learned))
            tokens, is_learned = [], []
        tokens += each.tokens
        is_learned += each.is_learned


def _step(model: Model, batch: Batch, steppers: list[torch.optim.Optimizer], size: float) -> float:
    hidden = model.hidden(batch.tokens, batch.positions, batch.lengths)
    loss = cross_entropy(model.logits(hidden[batch.where]).float(), batch.wanted)
    loss.backward()  # type: ignore[no-untyped-call]  # by torch
    torch.nn.utils.clip_grad_norm_(steppers[1].param_groups[0]["params"], 1.0)
    for one in steppers:
        for group in one.param_groups:
            group["lr"] = group["peak"] * size
        one.step()
        one.zero_grad()
    return float(loss.detach())


def _show(state: State, plan: Plan, mean: float, rate: float) -> None:
    done = min(1.0, state.n_seen / plan.n_tokens)
    left_s = (plan.n_tokens - state.n_seen) / max(rate, 1)
    seen = f"{state.n_seen / 1e6:7.2f}/{plan.n_tokens / 1e6:.1f}M tokens"
    text = f"{seen}  loss {mean:.3f}  {rate:5.0f}/s  {left_s / 60:4.0f} min left"
    if sys.stderr.isatty():
        bar = "█" * int(30 * done) + "·" * (30 - int(30 * done))
        print(f"\r{bar} {text} ", end="", file=sys.stderr, flush=True)
    elif state.n_steps % 20 == 0:
        print(text, file=sys.stderr, flush=True)


class _Stop:
    """True once somebody asked for an end."""

    def __init__(self) -> None:
        self._is_asked = False
        with contextlib.suppress(ValueError):  # not in the main thread: then nobody asks
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self._is_asked = True

    def __bool__(self) -> bool:
        return self._is_asked
