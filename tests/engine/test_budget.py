"""Steps grow and shrink towards their target; chunks are shared fairly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.engine.budget import IDLE_FACTOR, MIN_CHUNK, StepBudget, shares


def learned(base_s: float, token_s: float, *, n_decoding: int, n_steps: int = 60, n_batch: int = 4096) -> StepBudget:
    budget = StepBudget(target_step_s=0.05, n_batch=n_batch)
    for _ in range(n_steps):
        if n_decoding:
            budget.observe(n_decoding, 0, base_s + token_s * n_decoding)
        n = budget.chunk(n_decoding)
        budget.observe(n_decoding, n, base_s + token_s * (n + n_decoding))
    return budget


@pytest.mark.parametrize(("base_s", "token_s"), [(0.001, 0.0001), (0.01, 0.0002), (0.03, 0.00002), (0.0, 0.001)])
def test_a_step_with_streams_takes_the_target(base_s: float, token_s: float) -> None:
    budget = learned(base_s, token_s, n_decoding=4)
    step_s = base_s + token_s * (budget.chunk(4) + 4)
    assert 0.5 * 0.05 <= step_s <= 1.1 * 0.05


@pytest.mark.parametrize(("base_s", "token_s"), [(0.001, 0.0001), (0.01, 0.0002), (0.0, 0.001)])
def test_a_step_that_delays_nobody_is_longer_and_still_bounded(base_s: float, token_s: float) -> None:
    budget = learned(base_s, token_s, n_decoding=0)
    step_s = base_s + token_s * budget.chunk(0)
    assert 0.8 * IDLE_FACTOR * 0.05 <= step_s <= 1.05 * IDLE_FACTOR * 0.05


def test_a_chunk_is_never_so_small_that_nothing_moves_nor_larger_than_a_batch() -> None:
    assert learned(1.0, 0.5, n_decoding=3).chunk(3) == MIN_CHUNK
    assert learned(0.0, 1e-9, n_decoding=3, n_batch=512).chunk(3) == 512 - 3
    assert learned(0.0, 1e-9, n_decoding=0, n_batch=16).chunk(0) == 16


def test_one_hiccup_does_not_starve_prompts() -> None:
    budget = learned(0.001, 0.0001, n_decoding=0)
    before = budget.chunk(0)
    budget.observe(0, before, 30.0)
    assert budget.chunk(0) >= before // 4


def test_the_tail_of_a_prompt_teaches_little() -> None:
    budget = learned(0.04, 0.0001, n_decoding=0)
    before = budget.chunk(0)
    for _ in range(5):
        budget.observe(0, 1, 0.0401)
    assert budget.chunk(0) >= before * 0.7


def test_a_clock_that_stands_still_teaches_nothing() -> None:
    budget = StepBudget(target_step_s=0.05, n_batch=512)
    before = budget.chunk(0)
    budget.observe(0, 64, 0.0)
    assert budget.chunk(0) == before


@given(needs=st.lists(st.integers(1, 300), max_size=20), budget=st.integers(0, 600))
def test_shares_are_equal_but_for_those_who_need_less(needs: list[int], budget: int) -> None:
    given_ = shares(needs, budget)
    assert sum(given_) <= budget
    assert all(0 <= n <= need for n, need in zip(given_, needs, strict=True))
    cut_short = [n for n, need in zip(given_, needs, strict=True) if n < need]
    if cut_short:
        assert max(given_) - min(cut_short) <= 1, "somebody has more than one who wanted as much"
        assert sum(given_) > budget - len(needs), "tokens were left over"
    else:
        assert given_ == needs


def test_too_few_tokens_go_to_the_first() -> None:
    assert shares([100, 100, 100], 2) == [1, 1, 0]


def test_a_token_that_is_scored_has_a_price_of_its_own() -> None:
    budget = learned(0.001, 0.0001, n_decoding=4)
    plain = budget.chunk(4)
    for _ in range(60):
        n = budget.scored(4)
        budget.observe(4, 10, 0.001 + 0.0001 * (10 + 4) + 0.0008 * n, n)
    assert budget.chunk(4) == plain, "a step with scores says nothing of one without"
    assert 0.5 * 0.05 <= 0.001 + 0.0008 * budget.scored(4) <= 1.1 * 0.05
