#!/usr/bin/env python3
"""Measure what holding answers to a schema costs in processor time, within the library: it asks no server.

python tools/make_model.py v152k.gguf --vocab 151936
python tools/measure_held.py v152k.gguf

first    what a schema adds until the first token can be chosen: to read it and to compile it, where it is new, and to
         begin with it and look its first mask up, in any case. The schema is a nested object of six fields
beside   streams without a schema, half of the slots: their tokens a second of processor time while the others are held
         to a schema, over the same while the others have none either. With the same for all that the slots generate

Processor time of one thread, since other programs at work change it less than the time on the clock.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from array import array
from collections import Counter
from pathlib import Path

import numpy as np
from measure_constrained import schema

from llamahost.bench.stats import spread
from llamahost.core.messages import Output
from llamahost.core.sampling import Sampling
from llamahost.core.work import Constraint, Job, OneMore
from llamahost.engine.scheduler import Scheduler
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions
from llamahost.native.model import Model
from llamahost.text.constraint import grammar_of

N_PROMPT = 32
N_FREE = 64
"""Tokens of a prompt, and of an answer without a schema."""


def first(model: Model, n: int) -> None:
    """What a schema adds before the first token, in milliseconds: tells the spread of `n` schemas."""
    grammars = model.grammars
    began = time.process_time()
    grammars.compile('start: "a"')
    print(f"{'once a vocabulary, ms':56} {1e3 * (time.process_time() - began):8.2f}")
    words = np.zeros(grammars.n_words, np.int32)
    new: list[float] = []
    known: list[float] = []
    for k in range(n):
        text = json.dumps(schema(f"field_{k}"))
        for found in (new, known):
            began = time.process_time()
            grammar = grammar_of(Output("schema", text))
            matcher = grammars.matcher(Constraint(grammar=grammar, compiled=grammars.compile(grammar)))
            matcher.accept(*matcher.forced())
            matcher.mask(words)
            found.append(1e3 * (time.process_time() - began))
    tell("a new schema adds to the first token, ms", new)
    tell("a known one", known)


class Load:
    """A backend that answers without end: half of the slots are free, the others free or held."""

    def __init__(self, model: Model, *, n_slots: int, temperature: float) -> None:
        options = ContextOptions(n_ctx=1024, n_slots=n_slots, n_batch=512, n_threads=1, is_unified=True)
        self.backend = LlamaBackend(model, options)
        self._scheduler = Scheduler.for_backend(self.backend)
        self._rng = random.Random(1)
        self._temperature = temperature
        self._end_ids = model.vocab.end_ids
        grammar = grammar_of(Output("schema", json.dumps(schema())))
        self._constraint = Constraint(grammar=grammar, compiled=model.grammars.compile(grammar))
        self._kinds: dict[int, str] = {}
        self._n_jobs = 0

    def rates(self, others: str, n_steps: int) -> Counter[str]:
        """Tokens a second of processor time: of the free half as `mine`, of the others by what they are."""
        half = self.backend.n_slots // 2
        for kind in ["mine"] * half + [others] * half:
            self._submit(kind)
        counts: Counter[str] = Counter()
        self._run(n_steps // 4, Counter())
        began = time.process_time()
        self._run(n_steps, counts)
        seconds = time.process_time() - began
        for job_id in list(self._kinds):
            self._scheduler.abort(job_id)
        self._kinds.clear()
        return Counter({kind: n / seconds for kind, n in counts.items()})

    def _run(self, n_steps: int, counts: Counter[str]) -> None:
        scheduler, backend = self._scheduler, self.backend
        for _ in range(n_steps):
            plan = scheduler.plan(time.monotonic())
            assert plan is not None, "it answers without end"
            began = time.perf_counter()
            backend.launch(plan)
            sampled = backend.collect()
            now = time.perf_counter()
            for news in scheduler.commit(plan, sampled, now, now - began):
                if isinstance(news, OneMore):
                    counts.update(self._kinds[job_id] for job_id in news.job_ids)
                    continue
                kind = self._kinds[news.job_id]
                counts[kind] += len(news.tokens) + news.n_hidden
                if news.finish is not None:
                    del self._kinds[news.job_id]
                    self._submit(kind)

    def _submit(self, kind: str) -> None:
        self._n_jobs += 1
        is_held = kind == "held"
        job = Job(
            id=self._n_jobs,
            tokens=array("i", [self._rng.randrange(300, 1000) for _ in range(N_PROMPT)]),
            n_max=512 if is_held else N_FREE,
            sampling=Sampling(temperature=self._temperature, seed=self._rng.randrange(2**31)),
            end_ids=self._end_ids if is_held else frozenset(),
            constraint=self._constraint if is_held else None,
        )
        self._kinds[job.id] = kind
        self._scheduler.add(job, time.monotonic())


def beside(model: Model, given: argparse.Namespace) -> None:
    load = Load(model, n_slots=given.slots, temperature=given.temperature)
    mine: list[float] = []
    others: list[float] = []
    try:
        load.rates("free", given.steps // 2)  # warm
        for number in range(given.rounds):
            order = ("free", "held") if number % 2 else ("held", "free")
            rates = {kind: load.rates(kind, given.steps) for kind in order}
            mine.append(rates["held"]["mine"] / rates["free"]["mine"])
            others.append(rates["held"]["held"] / rates["free"]["free"])
    finally:
        load.backend.close()
    tell("free beside held / beside free", mine)
    tell("the held / free ones in their place", others)


def tell(name: str, figures: list[float]) -> None:
    told = spread(figures)
    assert told is not None
    print(f"{name:56} {told.median:8.2f}  ({told.q1:.2f} - {told.q3:.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--schemas", type=int, default=50)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100, help="of a load, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--temperature", type=float, default=0.8)
    given = parser.parse_args()
    model = Model.open(given.model.resolve())
    try:
        first(model, given.schemas)
        beside(model, given)
    finally:
        model.close()


if __name__ == "__main__":
    main()
