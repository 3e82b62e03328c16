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


def test_who_alone_has_work_is_sole_until_somebody_is_woken() -> None:
    turns: Turns[str] = Turns()
    turns.join("a")
    assert turns.is_sole("a")
    turns.join("b")
    assert not turns.is_sole("a")
    turns.idle("b")
    assert turns.is_sole("a")
    turns.wake()
    assert not turns.is_sole("a")


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


Bursts = list[tuple[int, list[int]]]
"""Work of one: when it comes, and what its steps cost."""

bursts = st.lists(st.tuples(st.integers(0, 500), st.lists(st.integers(1, 100), min_size=1, max_size=10)), max_size=8)


@given(st.lists(bursts, min_size=2, max_size=4))
def test_while_two_have_work_neither_gets_more_than_a_step_of_each_beyond_the_other(scripts: list[Bursts]) -> None:
    turns: Turns[int] = Turns()
    everyone = range(len(scripts))
    for number in everyone:
        turns.join(number)
    arrivals = sorted((at, number, costs) for number, script in enumerate(scripts) for at, costs in script)
    longest = [max((cost for _, costs in script for cost in costs), default=0) for script in scripts]
    waiting: list[list[int]] = [[] for _ in everyone]
    leads = {(a, b): [0] for a in everyone for b in everyone if a != b}  # of a over b, since both have work
    now = 0
    while arrivals or any(waiting):
        while arrivals and arrivals[0][0] <= now:
            _, number, costs = arrivals.pop(0)
            waiting[number] += costs
            turns.wake()
        taker = turns.next()
        if taker is None:
            assert not any(waiting), "somebody has work and nobody is asked"
            now = arrivals[0][0]
            continue
        if not waiting[taker]:
            turns.idle(taker)
            continue
        had_work = [bool(each) for each in waiting]
        cost = waiting[taker].pop(0)
        turns.served(taker, cost)
        now += cost
        for (a, b), lead in leads.items():
            if not (had_work[a] and had_work[b]):
                lead[:] = [0]
                continue
            lead.append(lead[-1] + cost * ((taker == a) - (taker == b)))
            assert lead[-1] - min(lead) <= longest[a] + longest[b]


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
