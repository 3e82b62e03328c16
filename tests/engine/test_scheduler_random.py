"""Random driving: whatever comes in whatever order, everybody is answered as if alone, and nothing is lost."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamahost.core.errors import BackendError, NoRoom
from llamahost.core.work import NO_ADAPTERS, Adapters, Streams
from tests.engine.driving import JUDGE, POET, Drive, prompt
from tests.fakes import N_VOCAB, FakeBackend, per_token

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "split": {},
    "unified": {"is_unified": True, "n_cells": 400},
    "tight": {"is_unified": True, "n_cells": 256, "n_slots": 6},
    "whole": {"can_truncate": False},
    "unified-whole": {"is_unified": True, "can_truncate": False, "n_cells": 300},
    "one-slot": {"n_slots": 1, "n_batch": 1},
    "small-batch": {"n_slots": 8, "n_batch": 8},
    "few-rows": {"n_rows": 5},
    "a-row-each": {"n_rows": 6, "n_slots": 6, "is_unified": True, "n_cells": 300},
}


def backend(name: str, **more: Any) -> FakeBackend:
    options: dict[str, Any] = {"n_ctx": 256, "n_slots": 4, "n_batch": 48, "cost": per_token(0.001, 0.002)}
    return FakeBackend(**options | CONFIGURATIONS[name] | more)


class Weather:
    """Draws what happens next."""

    def __init__(self, drive: Drive, rng: random.Random, *, adapters: tuple[Adapters, ...] = (NO_ADAPTERS,)) -> None:
        self.drive = drive
        self.rng = rng
        self.adapters = adapters
        self.roots = [prompt(200, seed) for seed in range(3)]

    def add(self) -> None:
        rng = self.rng
        root = rng.choice(self.roots)[: rng.choice([0, 30, 70, 100, 190])]
        if rng.random() < 0.2 and self.drive.jobs:  # a conversation goes on
            old = rng.choice(list(self.drive.jobs))
            root = [*self.drive.jobs[old].tokens, *self.drive.answers[old]][:250]
        tokens = root + [rng.randrange(N_VOCAB) for _ in range(rng.choice([1, 1, 2, 40]))]
        for _ in range(rng.choice([1, 1, 1, 3])):
            self.drive.add(
                tokens[: self.drive.backend.n_ctx],
                n_max=rng.choice([0, 1, 2, 10, 60, 1000]),
                priority=rng.choice([0, 0, 0, 1]),
                seed=rng.randrange(2),
                end_ids=frozenset(rng.sample(range(N_VOCAB), rng.choice([0, 1]))),
                adapters=rng.choice(self.adapters),
                n_prompt_logprobs=rng.choice([None, None, 0, 2]),
                n_logprobs=rng.choice([None, None, 0]),
                script=self.script() if rng.random() < 0.4 else "",
            )

    def script(self) -> str:
        """Runs of forced tokens between free ones; some are complete at their end, and some give up."""
        rng = self.rng
        words: list[str] = []
        for _ in range(rng.choice([1, 3, 8])):
            words += ["?"] * rng.choice([0, 1, 1, 5])
            words += [str(rng.randrange(N_VOCAB)) for _ in range(rng.choice([1, 2, 7, 40]))]
        return " ".join([*words, *rng.choice([(), (), (".",), ("!",)])])

    def abort(self) -> None:
        if self.drive.jobs:
            self.drive.abort(self.rng.choice(list(self.drive.jobs)))

    def step(self) -> None:
        under_way = [self.rng.choice(list(self.drive.jobs))] if self.drive.jobs and self.rng.random() < 0.1 else []
        self.drive.step(abort_under_way=under_way)


def play(drive: Drive, rng: random.Random, n_moves: int, *, adapters: tuple[Adapters, ...] = (NO_ADAPTERS,)) -> None:
    weather = Weather(drive, rng, adapters=adapters)
    for _ in range(n_moves):
        rng.choices([weather.add, weather.abort, weather.step], [2, 1, 6])[0]()
    drive.run()
    drive.check_answers()


@pytest.mark.parametrize("name", CONFIGURATIONS)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_everybody_is_answered_as_if_alone(name: str, seed: int) -> None:
    rng = random.Random(seed)
    drive = Drive(backend(name), n_reserve=rng.choice([1, 16, 256]), min_promise=rng.choice([1, 64]))
    play(drive, rng, 60)


@pytest.mark.parametrize("name", ["split", "tight", "whole"])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_failures_cost_only_whom_they_met(name: str, seed: int) -> None:
    rng = random.Random(seed)
    failures = {
        step: rng.choice([BackendError("bad luck"), NoRoom("full"), NoRoom("full")])
        for step in rng.sample(range(300), rng.choice([1, 5, 60]))
    }
    drive = Drive(backend(name, failures=failures, fails_late=rng.random() < 0.5), n_reserve=rng.choice([1, 16]))
    play(drive, rng, 60)


@pytest.mark.parametrize("name", ["split", "tight"])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_adapters_do_not_mix(name: str, seed: int) -> None:
    rng = random.Random(seed)
    play(Drive(backend(name), n_reserve=16), rng, 50, adapters=(NO_ADAPTERS, POET, JUDGE))


@pytest.mark.parametrize("name", ["split", "unified", "tight", "whole", "small-batch"])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_streams_that_nobody_looks_at_are_answered_as_if_alone(name: str, seed: int) -> None:
    """They are kept as columns for many steps, and told when somebody comes or leaves, or a step fails."""
    rng = random.Random(seed)
    failures = {step: rng.choice([BackendError("bad luck"), NoRoom("full")]) for step in rng.sample(range(30, 300), 2)}
    drive = Drive(backend(name, failures=failures), n_reserve=rng.choice([1, 16, 256]), is_checked=False)
    drive.add(prompt(10), n_max=1000)
    for k in range(100):
        if rng.random() < 0.05:
            end_ids = frozenset(rng.sample(range(N_VOCAB), rng.choice([0, 1])))
            drive.add(prompt(rng.randrange(1, 40), k), n_max=rng.choice([2, 10, 90, 1000]), end_ids=end_ids)
        if k > 9 and rng.random() < 0.02:
            drive.abort(rng.choice(list(drive.jobs)))
        drive.step(abort_under_way=[rng.choice(list(drive.jobs))] if k > 9 and rng.random() < 0.02 else [])
    drive.run()
    drive.check_answers()
    drive.scheduler.check_integrity()
    drive.check_backend()
    assert any(type(plan.spans) is Streams and plan.spans.n_more for plan in drive.backend.plans)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("seed", range(40))
def test_a_long_time_of_everything(name: str, seed: int) -> None:
    rng = random.Random(seed)
    kinds = [BackendError("bad luck"), NoRoom("full")]
    failures = {step: rng.choice(kinds) for step in rng.sample(range(2000), rng.choice([0, 0, 100]))}
    drive = Drive(
        backend(name, failures=failures, fails_late=rng.random() < 0.5),
        n_reserve=rng.choice([1, 16, 256]),
        min_promise=rng.choice([1, 64]),
    )
    play(drive, rng, 300, adapters=rng.choice([(NO_ADAPTERS,), (NO_ADAPTERS, POET)]))
