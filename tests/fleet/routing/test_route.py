"""Laws of routes: who of several models is asked first."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from llamahost.fleet.routing.route import Outlook, order
from llamahost.fleet.settings.route_spec import RouteSpec, Strategy

NAMES = ("a", "b", "c")
OUTLOOKS = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(
        st.booleans(), st.integers(0, 9), st.integers(1, 4), *(st.sampled_from([0.0, 1.0, 50.0]) for _ in range(4))
    ).map(lambda given: Outlook(*given)),
)


def route(strategy: Strategy, *weights: float) -> RouteSpec:
    return RouteSpec(name="r", models=NAMES, strategy=strategy, weights=weights)


@given(st.sampled_from(get_args(Strategy)), OUTLOOKS, st.text(max_size=3))
def test_everyone_is_asked_once_and_who_can_answer_at_once_before_the_others(
    strategy: Strategy, outlooks: dict[str, Outlook], key: str
) -> None:
    asked = order(route(strategy), outlooks, key=key)
    assert sorted(asked) == sorted(NAMES)
    able = [name in outlooks and outlooks[name].can_answer for name in asked]
    assert able == sorted(able, reverse=True)


def test_a_fallback_keeps_its_order() -> None:
    everyone = dict.fromkeys(NAMES, Outlook(can_answer=True))
    assert order(route("fallback"), everyone) == NAMES
    assert order(route("fallback"), {}) == NAMES
    assert order(route("quality"), {**everyone, "a": Outlook(can_answer=False)}) == ("b", "c", "a")


def test_a_split_is_by_weight_sticky_and_moves_only_the_keys_of_who_cannot_answer() -> None:
    everyone = dict.fromkeys(NAMES, Outlook(can_answer=True))
    spec = route("split", 6, 3, 1)
    keys = [f"user-{k}" for k in range(2000)]
    first = {key: order(spec, everyone, key=key)[0] for key in keys}
    shares = [sum(name == taken for taken in first.values()) / len(keys) for name in NAMES]
    assert all(abs(share - wanted) < 0.05 for share, wanted in zip(shares, (0.6, 0.3, 0.1), strict=True))
    without = {**everyone, "a": Outlook()}
    moved = {key: order(spec, without, key=key)[0] for key in keys}
    assert all(moved[key] == first[key] for key in keys if first[key] != "a")
    assert "a" not in moved.values()
    assert {order(route("split", 1, 0, 0), everyone, key=key)[0] for key in keys} == {"a"}


def test_speed_is_by_what_was_measured_and_who_waits() -> None:
    fast = Outlook(can_answer=True, n_slots=2, prompt_per_s=1000, tokens_per_s=50, n_generated=100, answer_s=2.0)
    slow = fast._replace(tokens_per_s=20)
    busy = fast._replace(n_in_flight=6)
    assert order(route("speed"), {"a": slow, "b": fast, "c": busy})[0] == "b"
    assert order(route("speed"), {"a": slow, "b": busy, "c": busy})[0] == "a"
    slow_reader = fast._replace(prompt_per_s=10)
    assert order(route("speed"), {"a": slow_reader, "b": slow, "c": busy}, n_prompt=1000)[0] == "b"
    assert order(route("speed"), {"a": slow_reader, "b": slow, "c": busy}, n_prompt=1, n_max=10)[0] == "a"
    assert order(route("speed"), {"a": slow, "b": fast, "c": Outlook(can_answer=True)})[0] == "c", "not known: try it"


def test_balanced_is_by_requests_for_each_slot() -> None:
    few, many = Outlook(can_answer=True, n_in_flight=3, n_slots=2), Outlook(can_answer=True, n_in_flight=5, n_slots=8)
    assert order(route("balanced"), {"a": few, "b": many, "c": few})[0] == "b"
