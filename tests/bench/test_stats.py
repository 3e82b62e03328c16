"""Statistics as laws."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamahost.bench.stats import paired_ratios, percentile, quantiles, spread

SAMPLES = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=50)
SHARES = st.floats(min_value=0, max_value=1)


@settings(deadline=None)
@given(SAMPLES, SHARES, SHARES)
def test_percentiles_ascend_and_stay_within_the_samples(samples: list[float], one: float, other: float) -> None:
    ordered = sorted(samples)
    low, high = sorted((one, other))
    slack = 1e-9 * ordered[-1]
    assert ordered[0] - slack <= percentile(ordered, low) <= percentile(ordered, high) + slack
    assert percentile(ordered, high) <= ordered[-1] + slack


@settings(deadline=None)
@given(SAMPLES)
def test_the_ends_are_percentiles_too(samples: list[float]) -> None:
    ordered = sorted(samples)
    assert percentile(ordered, 0.0) == ordered[0]
    assert percentile(ordered, 1.0) == ordered[-1]


def test_a_percentile_lies_between_its_neighbours() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert percentile([10.0, 20.0], 0.9) == pytest.approx(19.0)


@settings(deadline=None)
@given(SAMPLES)
def test_order_of_samples_does_not_matter(samples: list[float]) -> None:
    assert quantiles(samples) == quantiles(sorted(samples))
    assert spread(samples) == spread(list(reversed(samples)))


def test_no_samples_have_no_figures() -> None:
    assert quantiles([]) is None
    assert spread([]) is None
    with pytest.raises(ValueError):
        percentile([], 0.5)


@settings(deadline=None)
@given(SAMPLES)
def test_a_server_against_itself_is_one(samples: list[float]) -> None:
    assert paired_ratios(samples, samples, more_is_better=True) == [1.0] * len(samples)
    assert paired_ratios(samples, samples, more_is_better=False) == [1.0] * len(samples)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)), min_size=1))
def test_sides_and_directions_mirror_each_other(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    rates = paired_ratios(ours, theirs, more_is_better=True)
    assert rates == paired_ratios(theirs, ours, more_is_better=False)
    mirrored = paired_ratios(theirs, ours, more_is_better=True)
    assert all(math.isclose(one * other, 1.0) for one, other in zip(rates, mirrored, strict=True))


def test_a_round_without_a_figure_gives_no_ratio_and_shifts_no_other() -> None:
    assert paired_ratios([2.0, None, 6.0, 8.0], [1.0, 1.0, 0.0, 2.0], more_is_better=True) == [2.0, 4.0]


def test_rounds_must_pair() -> None:
    with pytest.raises(ValueError):
        paired_ratios([1.0], [1.0, 2.0], more_is_better=True)
