"""Laws of the turns: equal time to all that have work, and no credit for having had none."""

from hypothesis import given
from hypothesis import strategies as st

from llamahost.engine.turns import Turns


def test_nobody_is_next_where_nobody_is() -> None:
    turns: Turns[str] = Turns()
    assert turns.next() is None
    turns.join("a")
    assert turns.next() == "a"
    turns.idle("a")
    assert turns.next() is None
    turns.wake()
    assert turns.next() == "a"
    turns.leave("a")
    assert turns.next() is None


@given(st.lists(st.integers(1, 100), min_size=2, max_size=5))
def test_those_that_always_have_work_get_the_same_time(costs: list[int]) -> None:
    turns: Turns[int] = Turns()
    for number in range(len(costs)):
        turns.join(number)
    had = [0] * len(costs)
    for _ in range(400):
        taker = turns.next()
        assert taker is not None
        turns.served(taker, costs[taker])
        had[taker] += costs[taker]
    assert max(had) - min(had) <= max(costs)


@given(st.integers(1, 1000), st.integers(1, 10), st.integers(1, 10))
def test_idleness_earns_no_credit(n_alone: int, cost: int, other: int) -> None:
    turns: Turns[str] = Turns()
    turns.join("busy")
    turns.join("idle")
    turns.idle("idle")
    for _ in range(n_alone):
        assert turns.next() == "busy"
        turns.served("busy", cost)
    turns.wake()
    had = {"busy": 0, "idle": 0}
    for _ in range(100):
        taker = turns.next()
        assert taker is not None
        turns.served(taker, cost if taker == "busy" else other)
        had[taker] += cost if taker == "busy" else other
    assert abs(had["busy"] - had["idle"]) <= 2 * max(cost, other)


def test_a_newcomer_waits_for_nobody_and_nobody_for_a_newcomers_past() -> None:
    turns: Turns[str] = Turns()
    turns.join("old")
    for _ in range(10):
        turns.served("old", 1.0)
    turns.join("new")
    taken = []
    for _ in range(6):
        taker = turns.next()
        assert taker is not None
        taken.append(taker)
        turns.served(taker, 1.0)
    assert taken.count("old") == 3
