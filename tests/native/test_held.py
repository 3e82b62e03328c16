"""Answers held to a form, on the real backend under the real scheduler: always valid, and the same when watched."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamahost.core.messages import Output
from llamahost.core.sampling import Sampling
from llamahost.core.work import Constraint, Emission, Job, ThoughtLimit
from llamahost.engine.scheduler import Scheduler
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions
from llamahost.native.holding import PATIENCE_S, SLOW_S, Holding
from llamahost.native.model import Model
from llamahost.native.rows import Chooser
from llamahost.native.sampling import Samplers
from llamahost.text.constraint import grammar_of
from tests.fakes import one_by_one

SCHEMA = grammar_of(
    Output(
        "schema",
        json.dumps(
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 6},
                    "age": {"type": "integer", "minimum": 0, "maximum": 99},
                    "colour": {"enum": ["red", "green"]},
                },
                "required": ["name", "age", "colour"],
            }
        ),
    )
)
SAMPLINGS = {
    "greedy": Sampling(temperature=0.0),
    "cut": Sampling(temperature=1.5, top_k=20, seed=1),
    "penalties": Sampling(temperature=1.5, top_k=20, repeat_penalty=1.3, seed=2),
    "whole": Sampling(temperature=1.5, top_k=0, seed=3),
    "typical": Sampling(temperature=1.0, top_k=0, typical_p=0.5, seed=4),
    "mirostat": Sampling(mirostat=2, seed=5),
}


class Bench:
    """A backend, a scheduler that checks itself, and what was answered."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.model = Model.open(path)
        made: dict[str, Any] = {"n_ctx": 256, "n_slots": 4, "n_batch": 64, "n_threads": 1}
        self.backend = LlamaBackend(self.model, ContextOptions(**made | options))
        self.scheduler = Scheduler.for_backend(self.backend, is_checked=True)
        self.answers: dict[int, Emission] = {}
        self._n = 0

    def add(self, grammar: str | None, prompt: str = "Once upon", **fields: Any) -> int:
        self._n += 1
        more: dict[str, Any] = {"n_max": 100, "sampling": SAMPLINGS["greedy"], "end_ids": self.model.vocab.end_ids}
        job = Job(
            id=self._n,
            tokens=self.model.vocab.encode(prompt, add_special=True, parse_special=True),
            constraint=fields.pop("constraint", None if grammar is None else Constraint(grammar=grammar)),
            **more | fields,
        )
        self.scheduler.add(job, 0.0)
        self.answers[job.id] = Emission(job.id)
        return job.id

    def run(self) -> int:
        """Step until all have ended; in how many steps."""
        n_steps = 0
        while (plan := self.scheduler.plan(0.0)) is not None:
            self.backend.launch(plan)
            for emission in one_by_one(self.scheduler.commit(plan, self.backend.collect(), 0.0, 0.001)):
                before = self.answers[emission.job_id]
                self.answers[emission.job_id] = emission._replace(
                    tokens=before.tokens + emission.tokens, logprobs=before.logprobs + emission.logprobs
                )
            n_steps += 1
        return n_steps

    def text(self, job_id: int) -> str:
        return self.model.vocab.decode(array("i", self.answers[job_id].tokens)).decode("utf-8", "replace")

    def close(self) -> None:
        self.backend.close()
        self.model.close()


@pytest.fixture(params=["split", "unified"])
def bench(request: pytest.FixtureRequest, tiny_llama: Path) -> Iterator[Bench]:
    made = Bench(tiny_llama, is_unified=request.param == "unified")
    yield made
    made.close()


def assert_valid(text: str) -> None:
    value = json.loads(text)
    assert list(value) == ["name", "age", "colour"]
    assert len(value["name"]) <= 6
    assert 0 <= value["age"] <= 99
    assert value["colour"] in ("red", "green")


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_way_of_sampling_is_held(bench: Bench, name: str) -> None:
    jobs = [bench.add(SCHEMA, f"Prompt {k}", sampling=SAMPLINGS[name]) for k in range(4)]
    bench.run()
    for job in jobs:
        assert bench.answers[job].finish == "stop"
        assert bench.answers[job].n_hidden == 0
        assert_valid(bench.text(job))


@pytest.mark.parametrize("name", SAMPLINGS)
def test_logprobs_change_no_answer_and_are_those_of_each_token(bench: Bench, name: str) -> None:
    plain = bench.add(SCHEMA, sampling=SAMPLINGS[name])
    watched = bench.add(SCHEMA, sampling=SAMPLINGS[name], n_logprobs=3)
    bench.run()
    answer = bench.answers[watched]
    assert answer.tokens == bench.answers[plain].tokens
    assert len(answer.logprobs) == len(answer.tokens)
    prompt = bench.model.vocab.encode("Once upon", add_special=True, parse_special=True)
    whole = array("i", [*prompt, *answer.tokens])
    again = Job(id=900, tokens=whole, n_max=0, n_prompt_logprobs=3)
    bench.scheduler.add(again, 0.0)
    bench.answers[900] = Emission(900)
    rows: list[Any] = []
    while (plan := bench.scheduler.plan(0.0)) is not None:
        bench.backend.launch(plan)
        for emission in one_by_one(bench.scheduler.commit(plan, bench.backend.collect(), 0.0, 0.001)):
            rows += emission.prompt_logprobs
    scored = rows[len(prompt) - 1 :]
    for told, row in zip(answer.logprobs, scored, strict=True):
        assert told.logprob == pytest.approx(row.logprob, abs=0.02)


def test_forced_tokens_take_no_step_of_their_own(bench: Bench) -> None:
    job = bench.add('start: "a long text that leaves no choice at all" /[0-9]/')
    n_steps = bench.run()
    assert len(bench.answers[job].tokens) > 15
    assert n_steps <= 4  # the prompt, the gap, and two that only tell the ends


def test_the_answer_is_cut_where_it_was_to_end_also_amid_what_is_forced(bench: Bench) -> None:
    whole = bench.add('start: "a long text that leaves no choice at all" /[0-9]/')
    cuts = [bench.add('start: "a long text that leaves no choice at all" /[0-9]/', n_max=n) for n in (1, 2, 5)]
    bench.run()
    for job, n in zip(cuts, (1, 2, 5), strict=True):
        assert bench.answers[job].finish == "length"
        assert bench.answers[job].tokens == bench.answers[whole].tokens[:n]


def test_the_slot_is_as_if_the_text_had_been_the_models_own(bench: Bench) -> None:
    held = bench.add(SCHEMA)
    bench.run()
    follow = bench.model.vocab.decode(bench.model.vocab.encode("Once upon", add_special=False, parse_special=True))
    prompt = follow.decode() + bench.text(held) + " and then"
    cached = bench.add(None, prompt, n_max=8)
    bench.run()
    assert bench.answers[cached].n_cached > 10
    for slot in list(bench.scheduler.slots.all):
        bench.scheduler.slots.clear(slot.index)
    fresh = bench.add(None, prompt, n_max=8)
    bench.run()
    assert bench.answers[fresh].n_cached == 0
    assert bench.answers[fresh].tokens == bench.answers[cached].tokens


def test_who_is_not_held_is_answered_as_if_nobody_were(bench: Bench) -> None:
    alone = [bench.add(None, f"Prompt {k}", n_max=20, sampling=SAMPLINGS["cut"]) for k in range(2)]
    bench.run()
    beside = [bench.add(None, f"Prompt {k}", n_max=20, sampling=SAMPLINGS["cut"]) for k in range(2)]
    bench.add(SCHEMA, sampling=SAMPLINGS["cut"])
    bench.add(SCHEMA, sampling=SAMPLINGS["cut"], n_logprobs=0)
    bench.run()
    assert [bench.answers[job].tokens for job in beside] == [bench.answers[job].tokens for job in alone]


def test_a_grammar_that_gives_up_ends_its_own_job_alone(bench: Bench) -> None:
    broken = bench.add("start: nowhere")
    right = bench.add(SCHEMA)
    bench.run()
    assert bench.answers[broken].finish == "failed"
    assert "nowhere" in bench.answers[broken].error
    assert_valid(bench.text(right))
    assert bench.backend.n_kept_for_jobs == 0


def test_bias_bows_to_the_grammar(bench: Bench) -> None:
    banned = bench.model.vocab.encode("{", add_special=False, parse_special=False)
    bias = tuple((token, float("-inf")) for token in banned)
    job = bench.add(SCHEMA, sampling=Sampling(temperature=1.0, seed=1, logit_bias=bias))
    choice = bench.add('start: "a" | "b"', sampling=Sampling(temperature=0.0, logit_bias=((0, 50.0),)))
    bench.run()
    assert_valid(bench.text(job))
    assert bench.text(choice) in ("a", "b")


def test_a_call_is_held_from_its_trigger_on(bench: Bench) -> None:
    marker = bench.model.vocab.encode("<tool_call>", add_special=False, parse_special=True)[0]
    constraint = Constraint(grammar='start: "{}" "</tool_call>"', triggers=("<tool_call>",), repeats=True)
    sampling = Sampling(temperature=1.0, seed=3, logit_bias=((marker, 9.0),))
    job = bench.add("", constraint=constraint, sampling=sampling, n_max=80, end_ids=frozenset())
    free = bench.add("", constraint=constraint, n_max=10, end_ids=frozenset())
    bench.run()
    text = bench.text(job)
    assert text.count("<tool_call>") > 1
    assert text.count("<tool_call>") - text.count("<tool_call>{}</tool_call>") <= 1  # the last may be cut
    assert bench.answers[free].finish == "length"


def limited(bench: Bench, n_max: int, **fields: Any) -> ThoughtLimit:
    closing = bench.model.vocab.encode("</think>", add_special=False, parse_special=True)
    return ThoughtLimit(n_max=n_max, open="<think>", close="</think>", closing=tuple(closing), is_open=True, **fields)


@pytest.mark.parametrize(
    "constraint", [None, Constraint(grammar=SCHEMA, quiet=(("<think>", "</think>"),), starts_quiet=True)]
)
def test_thoughts_are_closed_at_their_limit_and_what_follows_is_held(
    bench: Bench, constraint: Constraint | None
) -> None:
    """The closing takes no step of its own; with logprobs, each of its tokens has them."""
    sampling = SAMPLINGS["penalties"]
    jobs = {
        n_logprobs: bench.add(
            None, thoughts=limited(bench, 7), constraint=constraint, sampling=sampling, n_logprobs=n_logprobs
        )
        for n_logprobs in (None, 1)
    }
    free = bench.add(None, sampling=sampling)
    bench.run()
    plain, watched = bench.answers[jobs[None]], bench.answers[jobs[1]]
    n_closing = len(limited(bench, 0).closing)
    assert plain.tokens[7 : 7 + n_closing] == limited(bench, 0).closing
    assert plain.tokens[:7] == bench.answers[free].tokens[:7]
    assert watched.tokens == plain.tokens
    assert len(watched.logprobs) == len(watched.tokens)
    if constraint is not None:
        assert_valid(bench.text(jobs[None]).partition("</think>")[2])


def test_memory_that_cannot_be_cut_is_never_asked_to(tiny_recurrent: Path) -> None:
    bench = Bench(tiny_recurrent)
    assert not bench.backend.can_truncate
    plain, watched = bench.add(SCHEMA), bench.add(SCHEMA, n_logprobs=1)
    short = bench.add(SCHEMA, n_logprobs=1, n_max=5)
    bench.run()
    assert bench.answers[watched].tokens == bench.answers[plain].tokens
    assert bench.answers[short].tokens == bench.answers[plain].tokens[:5]
    assert_valid(bench.text(plain))
    bench.close()


@pytest.mark.parametrize("row_s", [SLOW_S / 4, SLOW_S * 1.5])
def test_a_job_whose_rows_are_slow_is_ended_when_patience_is_over(tiny_llama: Path, row_s: float) -> None:
    """Half of a row's time goes by while its mask is looked up, the other half while its token is followed."""
    n_readings = 0

    def clock() -> float:
        nonlocal n_readings
        n_readings += 1
        return n_readings * row_s / 2

    model = Model.open(tiny_llama)
    samplers = Samplers(model.library, model.vocab, n_ctx=64)
    chooser = Chooser(model.library, n_vocab=model.vocab.n_tokens)
    chain = samplers.chain(Sampling(temperature=0.0), array("i", [1]))
    holding = Holding(model.grammars, n_rows=1, n_threads=1, clock=clock)
    row = np.zeros(model.vocab.n_tokens, np.float32)
    holding.begin(Job(id=1, tokens=array("i", [1]), n_max=500, constraint=Constraint(grammar="start: /a+/")))
    [a] = model.vocab.encode("a", add_special=False, parse_special=False)[-1:]
    n_rows, error = 0, ""
    while not error and n_rows < 200:
        holding.look([1])
        error = holding.follow(1, a, chooser, chain, row).error
        n_rows += 1
    if row_s < SLOW_S:
        assert error == ""
    else:
        assert "takes too long" in error
        assert n_rows == int(PATIENCE_S / row_s) + 1
    for each in (holding, chooser, chain, samplers, model):
        each.close()
