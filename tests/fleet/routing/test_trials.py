"""Laws of trying again: who was slow is measured anew, and what that costs is bounded."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llamahost.fleet.routing.rates import HALF_LIFE_S, Answered, Rates
from llamahost.fleet.routing.trials import EVERY, FAR, Trials

FINISH = st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 1000.0), min_size=1)


@given(st.lists(FINISH, min_size=1, max_size=300))
def test_a_try_is_of_one_that_can_answer_and_no_model_is_tried_oftener_than_its_share(
    asked: list[dict[str, float]],
) -> None:
    trials = Trials()
    tried: dict[str, list[int]] = {name: [] for name in "abcd"}
    for k, finish_s in enumerate(asked):
        able = sorted(finish_s, key=finish_s.__getitem__)
        models = (*able, *(name for name in "abcd" if name not in finish_s))
        found = trials.ordered("r", models, finish_s)
        assert sorted(found) == sorted(models)
        assert found[0] in finish_s
        assert [name for name in found if name != found[0]] == [name for name in models if name != found[0]]
        if found[0] != models[0]:
            tried[found[0]].append(k)
    for times in tried.values():  # over any stretch
        assert all(b - a >= EVERY for a, b in pairwise(times))


@given(st.floats(1.01, 1000.0))
def test_what_tries_cost_is_a_twentieth_and_nobody_is_left_out_for_ever(ratio: float) -> None:
    trials, n = Trials(), int(EVERY * FAR) + 1
    first = [trials.ordered("r", ("a", "b"), {"a": 1.0, "b": ratio})[0] for _ in range(4 * n)]
    assert "b" in first[:n]
    n_tried = first.count("b")
    assert n_tried <= 4 * n / EVERY / min(max(ratio - 1, 1.0), FAR) + 1
    if ratio - 1 <= FAR:
        assert n_tried * (ratio - 1) <= 4 * n / EVERY + ratio


def test_who_was_slow_once_is_the_quickest_again_after_few_tries() -> None:
    """A slow first answer, as of a machine that was busy; requests once a second."""
    trials, rates, now = Trials(), Rates(), 0.0
    truth = {"a": 1.0, "b": 0.5}
    rates.learn("b", Answered(n_generated=11, generation_s=30.0), now)
    rates.learn("a", Answered(n_generated=11, generation_s=10 * truth["a"]), now)
    chosen = []
    for _ in range(300):
        now += 1.0
        finish_s = {name: 10 / rates.of(name).tokens_per_s for name in truth}
        first = trials.ordered("r", tuple(sorted(truth, key=finish_s.__getitem__)), finish_s)[0]
        chosen.append(first)
        rates.learn(first, Answered(n_generated=11, generation_s=10 * truth[first]), now)
    assert chosen.count("b") > 150
    assert chosen[-100:].count("b") >= 95


@given(st.lists(st.tuples(st.floats(0, 1000.0), st.floats(0.1, 100.0)), min_size=1, max_size=20), st.integers(0, 9))
def test_a_mean_stays_between_what_it_was_told_and_forgets_with_time(told: list[tuple[float, float]], n: int) -> None:
    rates, now = Rates(), 0.0
    for wait_s, total_s in told:
        now += wait_s
        rates.learn("m", Answered(total_s=total_s), now)
    least, most = min(total_s for _, total_s in told), max(total_s for _, total_s in told)
    assert 0.999 * least <= rates.of("m").answer_s <= 1.001 * most
    rates.learn("m", Answered(total_s=1.0), now + n * HALF_LIFE_S)
    assert abs(rates.of("m").answer_s - 1.0) <= 0.9 * 0.5**n * (most + 1.0)
