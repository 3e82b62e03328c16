"""Rates are what was counted in the time that they are told of; the journal is bounded and newest first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamahost.core.observe import RequestRecord
from llamahost.ops.journal import Entry, Journal
from llamahost.ops.tally import Tally, Total
from llamahost.ops.window import GRAIN_S, Window


@given(st.lists(st.tuples(st.floats(GRAIN_S, 30), st.integers(0, 50)), max_size=60))
def test_a_window_counts_what_came_in_its_span_and_nothing_else(gaps: list[tuple[float, int]]) -> None:
    window, now, came = Window(10, 0.0), 0.0, []
    for gap, n in gaps:
        now += gap
        window.add(now, n)
        came.append((now, n))
        expected = sum(n for at, n in came if now - at < 10)
        assert window.n(now) == expected
        assert len(window._points) <= 10 / GRAIN_S + 3


def test_a_window_says_nothing_of_less_than_a_second_and_bears_a_clock_that_goes_back() -> None:
    window = Window(10, 100.0)
    window.add(100.5, 40)
    assert window.per_s(100.5) == 0.0
    assert window.per_s(102.0) == 20.0
    window.add(50.0, 4)
    assert window.n(102.0) == 44
    for k in range(10_000):
        window.add(102.0 + k / 10_000, 0)
    assert len(window._points) < 50


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_tokens_are_counted_by_replica_and_a_reload_begins_anew() -> None:
    clock = Clock()
    tally = Tally(clock=clock, wall=clock)
    tally.count(["a", "b"], [Total("a", "a#0", 0, 0), Total("a", "a#1", 0, 0)])
    clock.now += 5
    tally.count(["a", "b"], [Total("a", "a#0", 50, 100), Total("a", "a#1", 0, 50), Total("b", "b#0", 5, 10)])
    assert (tally.rates("a").tokens_per_s, tally.rates("a").prompt_tokens_per_s) == (30.0, 10.0)
    assert (tally.rates("b").tokens_per_s, tally.rates().tokens_per_s) == (2.0, 32.0)
    clock.now += 5
    tally.count(["a"], [Total("a", "a#0", 0, 20)])  # loaded anew; the others are gone
    assert tally.rates("a").tokens_per_s == 17.0
    assert tally.rates("b").tokens_per_s == 0.0
    assert tally.rates().tokens_per_s == 18.0
    clock.now += 20
    tally.count(["a"], [Total("a", "a#0", 0, 20)])
    clock.now += 11
    tally.count(["a"], [Total("a", "a#0", 0, 20)])
    assert tally.rates().tokens_per_s == 0.0


def test_requests_are_counted_for_models_that_there_are() -> None:
    clock = Clock()
    tally = Tally(clock=clock, wall=clock)
    tally.count(["a"], [])
    told: list[Entry] = []
    end = tally.listen(told.append)
    tally.finished(RequestRecord(model="a", kind="chat"))
    clock.now += 30
    tally.finished(RequestRecord(model="a", kind="chat", outcome="rejected"))
    end()
    end()
    tally.finished(RequestRecord(model="made up", kind="chat", outcome="rejected"))
    assert tally.rates("a").requests_per_min == 2
    assert tally.rates("a").last_used == 1000.0
    assert tally.rates().requests_per_min == 3
    assert tally.rates("made up").requests_per_min == 0
    assert [each.record.outcome for each in told] == ["stop", "rejected"]
    clock.now += 31
    assert tally.rates("a").requests_per_min == 1


def test_the_journal_keeps_the_last_and_tells_the_newest_first() -> None:
    journal = Journal(n_max=3)
    for k in range(5):
        journal.add(Entry(float(k), RequestRecord(model="ab"[k % 2], route="r" * (k == 2), kind="chat")))
    assert [entry.ended_at for entry in journal.last(10)] == [4, 3, 2]
    assert [entry.ended_at for entry in journal.last(10, "b")] == [3]
    assert [entry.ended_at for entry in journal.last(10, "r")] == [2]
    assert [entry.ended_at for entry in journal.last(1)] == [4]
    assert list(journal.last(0)) == []
