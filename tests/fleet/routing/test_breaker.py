"""Laws of the circuit breaker."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llamahost.fleet.routing.breaker import Breaker


def test_two_failures_open_it_and_one_probe_closes_it() -> None:
    breaker = Breaker(n_failures=2, open_s=60.0)
    breaker.failed(breaker.enter(), 0.0)
    assert not breaker.is_open(0.0)
    breaker.failed(breaker.enter(), 1.0)
    assert breaker.is_open(1.0)
    assert breaker.is_open(60.9)
    assert not breaker.is_open(61.0)
    probe = breaker.enter()
    assert breaker.is_open(99.0), "one probe alone"
    breaker.succeeded(probe)
    assert breaker.is_closed


def test_a_probe_that_fails_opens_it_anew_and_one_that_is_left_leaves_its_place() -> None:
    breaker = Breaker(n_failures=1, open_s=60.0)
    breaker.failed(breaker.enter(), 0.0)
    breaker.left(breaker.enter())
    assert not breaker.is_open(70.0)
    breaker.failed(breaker.enter(), 70.0)
    assert breaker.is_open(129.0)


def test_the_first_token_of_a_probe_closes_it_and_that_of_another_says_nothing() -> None:
    breaker = Breaker(n_failures=2, open_s=60.0)
    breaker.failed(breaker.enter(), 0.0)
    second = breaker.enter()
    breaker.answers(second)
    breaker.failed(second, 0.0)
    assert breaker.is_open(0.0), "it failed after its first token, as the one before it may have"
    probe = breaker.enter()
    breaker.answers(probe)
    assert breaker.is_closed, "its answer may take minutes"
    breaker.failed(probe, 70.0)
    assert breaker.is_closed, "that is one in a row"


def test_one_failed_step_is_one_failure_however_many_were_in_it() -> None:
    breaker = Breaker(n_failures=2)
    together = [breaker.enter() for _ in range(8)]
    for ticket in together[:7]:
        breaker.failed(ticket, 0.0)
    assert breaker.is_closed
    breaker.failed(breaker.enter(), 1.0)
    assert breaker.is_open(1.0)
    breaker.succeeded(together[7])
    assert breaker.is_open(1.0), "it had begun before the failure"


class BreakerMachine(RuleBasedStateMachine):
    """Any order of requests, ends and times, clocks that jump back among them."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(n_failures=2, open_s=10.0)
        self.now = 0.0
        self.under_way: list[int] = []

    @rule(step=st.floats(-5, 20))
    def wait(self, step: float) -> None:
        self.now += step

    @precondition(lambda self: not self.breaker.is_open(self.now))
    @rule()
    def enter(self) -> None:
        was_closed = self.breaker.is_closed
        self.under_way.append(self.breaker.enter())
        assert was_closed or self.breaker.is_open(self.now), "more than one probe"

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 100), end=st.sampled_from(["succeeded", "failed", "left"]), answers=st.booleans())
    def end(self, which: int, end: str, answers: bool) -> None:
        ticket = self.under_way.pop(which % len(self.under_way))
        if answers:
            self.breaker.answers(ticket)
        if end == "failed":
            self.breaker.failed(ticket, self.now)
        elif end == "succeeded":
            self.breaker.succeeded(ticket)
        else:
            self.breaker.left(ticket)

    @invariant()
    def it_opens_again_in_the_end(self) -> None:
        if not self.under_way:
            assert not self.breaker.is_open(self.now + 1e9), "nobody is under way, and it never lets anybody pass"


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=30, stateful_step_count=30)
