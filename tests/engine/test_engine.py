"""Laws of a step: what is published when, whom a failure costs, and what an abort frees."""

import logging
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from llamahost.core.errors import BackendError, BackendLost, NoRoom
from llamahost.core.work import Emission, Job, News, Plan, Sampled
from llamahost.engine.engine import HOLD_S, Engine, EngineStats
from llamahost.engine.pace import FIRST_S, Pace
from llamahost.engine.scheduler import Scheduler
from tests.engine.driving import job_of
from tests.fakes import FakeBackend, alone, one_by_one, per_token


@dataclass
class Bench:
    """An engine on a fake backend, with all that it published and did, in order."""

    backend: FakeBackend = field(default_factory=FakeBackend)
    published: list[list[News]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler.for_backend(self.backend, is_checked=True)
        self.engine = Engine(
            self.backend, self.scheduler, self.published.append, on_lost=self.lost.append, clock=self.clock
        )

    def clock(self) -> float:
        return self.backend.now

    def run(self, limit: int = 10_000) -> None:
        for _ in range(limit):
            if not self.engine.step():
                return
        raise AssertionError("the engine does not come to rest")

    def news_of(self, job_id: int) -> list[Emission]:
        return [emission for step in self.published for emission in one_by_one(step) if emission.job_id == job_id]

    def tokens_of(self, job_id: int) -> list[int]:
        return [token for emission in self.news_of(job_id) for token in emission.tokens]

    def end_of(self, job_id: int) -> Emission:
        ends = [emission for emission in self.news_of(job_id) if emission.finish is not None]
        assert len(ends) == 1, "a job ends exactly once"
        return ends[0]


@pytest.mark.parametrize("overlaps", [False, True])
def test_every_job_is_answered_as_if_it_were_alone(overlaps: bool) -> None:
    bench = Bench(FakeBackend(overlaps=overlaps))
    jobs = [job_of(k, n_prompt=3 + k) for k in range(1, 10)]
    for job in jobs:
        bench.engine.submit(job)
    bench.run()
    for job in jobs:
        assert bench.tokens_of(job.id) == alone(job, bench.backend.n_ctx)
        assert bench.end_of(job.id).finish == "length"


def steps_and_news(backend: FakeBackend, *, n_max: int) -> list[int]:
    """How many tokens each publishing carried, of one job."""
    published: list[list[News]] = []
    engine = Engine(backend, Scheduler.for_backend(backend), published.append, clock=lambda: backend.now)
    engine.submit(job_of(1, n_max=n_max))
    while engine.step():
        pass
    return [sum(len(emission.tokens) for emission in news) for news in published]


def test_a_step_publishes_at_most_once() -> None:
    bench = Bench()
    for k in range(1, 5):
        bench.engine.submit(job_of(k))
    n_published = 0
    while bench.engine.step():
        assert len(bench.published) <= n_published + 1
        n_published = len(bench.published)
    assert all(bench.published)


def test_long_steps_are_told_one_by_one() -> None:
    assert steps_and_news(FakeBackend(cost=per_token(2 * HOLD_S, 0.0)), n_max=6) == [1] * 6


def test_short_steps_share_a_wake_up_but_the_first_and_the_last_token_never_wait() -> None:
    news = steps_and_news(FakeBackend(cost=per_token(HOLD_S / 4.5, 0.0)), n_max=12)
    assert sum(news) == 12
    assert news[0] == 1
    assert max(news) == 5  # the oldest is then four steps old; one step more and it would be older than HOLD_S
    assert len(news) < 12


@pytest.mark.parametrize("way", ["end", "abort", "failure", "loss", "scheduler", "close"])
@pytest.mark.parametrize("overlaps", [False, True])
def test_an_engine_at_rest_holds_no_news(way: str, overlaps: bool) -> None:
    """Whatever brought it to rest: all tokens that were made are told, before whoever waits for them has to wait."""
    failures: dict[str, Exception] = {
        "failure": BackendError("bad step"),
        "loss": BackendLost("gone"),
        "scheduler": ValueError("a bug"),
    }
    bench = Bench(FakeBackend(cost=per_token(HOLD_S / 100, 0.0), overlaps=overlaps))
    bench.engine.submit(job_of(1, n_max=40))
    for _ in range(20):
        bench.engine.step()
    n_made = sum(1 for plan in bench.backend.plans for span in plan.spans if span.n_rows)
    assert len(bench.tokens_of(1)) < n_made == 20, "no news is held, and so nothing is tried"
    if way == "abort":
        bench.engine.abort(1)
    elif way == "close":
        bench.engine.close()
    elif way == "scheduler":
        bench.scheduler.slots.all[0].kept = array("i", [1])  # it will find its own table wrong
        bench.engine.step()
    elif way in failures:
        bench.backend.failures = {bench.backend.n_steps: failures[way]}
        bench.engine.step()
    if way not in ("close", "loss", "scheduler"):  # those are told at once, for there is no step any more
        bench.run()
    assert bench.tokens_of(1) == alone(job_of(1, n_max=40), 256)[: 40 if way == "end" else n_made]
    assert bench.end_of(1).finish == {"end": "length", "abort": "cancelled"}.get(way, "failed")


def test_nothing_is_held_into_a_long_step() -> None:
    """Tokens of short steps must not wait while a long prompt is computed."""
    backend = FakeBackend(cost=per_token(HOLD_S / 8, HOLD_S / 8), n_ctx=512)
    published: list[list[News]] = []
    told_at_long_steps: list[tuple[int, int]] = []  # tokens of job 1 that were made, and told, before such a step ended
    n_made = 0

    class Watched(Scheduler):
        def commit(self, plan: Plan, sampled: Sequence[Sampled], now: float, step_s: float) -> list[News]:
            nonlocal n_made
            if plan.n_tokens > 10:
                n_told = sum(len(e.tokens) for news in published for e in one_by_one(news) if e.job_id == 1)
                told_at_long_steps.append((n_made, n_told))
            emissions = super().commit(plan, sampled, now, step_s)
            n_made += sum(len(emission.tokens) for emission in one_by_one(emissions) if emission.job_id == 1)
            return emissions

    engine = Engine(backend, Watched.for_backend(backend), published.append, clock=lambda: backend.now)
    engine.submit(job_of(1, n_max=30))
    for _ in range(10):
        engine.step()
    engine.submit(Job(id=2, tokens=array("i", range(100)), n_max=2))
    while engine.step():
        pass
    assert told_at_long_steps
    assert all(n_told == n_made for n_made, n_told in told_at_long_steps)


def test_where_the_device_computes_alone_news_goes_out_between_launch_and_collect() -> None:
    done: list[str] = []

    class Watched(FakeBackend):
        def launch(self, plan: Plan) -> None:
            done.append("launch")
            super().launch(plan)

        def collect(self) -> Sequence[Sampled]:
            done.append("collect")
            return super().collect()

    def run(*, overlaps: bool) -> list[str]:
        done.clear()
        backend = Watched(overlaps=overlaps, cost=per_token(2 * HOLD_S, 0.0))
        scheduler = Scheduler.for_backend(backend)
        engine = Engine(backend, scheduler, lambda _: done.append("publish"), clock=lambda: backend.now)
        engine.submit(job_of(1, n_max=3))
        while engine.step():
            pass
        return done[:]

    step = ["launch", "collect", "publish"]
    assert run(overlaps=False)[: 3 * len(step)] == 3 * step
    assert run(overlaps=True)[:8] == [*step[:2], *["launch", "publish", "collect"] * 2]
    assert done[-3:] == ["launch", "publish", "collect"]  # the last step is housekeeping, and has no news


@pytest.mark.parametrize("n_steps", [0, 1, 4], ids=["queued", "prefilling", "decoding"])
def test_abort_frees_the_slot_before_the_next_plan(n_steps: int) -> None:
    bench = Bench(FakeBackend(n_slots=1, n_batch=8))
    bench.engine.submit(job_of(1, n_prompt=20, n_max=50))
    bench.engine.submit(job_of(2))
    for _ in range(n_steps):
        bench.engine.step()
    bench.engine.abort(1)
    bench.engine.step()
    assert {span.job_id for span in bench.backend.plans[-1].spans} == {2}
    bench.run()
    assert bench.end_of(1).finish == "cancelled"
    assert bench.tokens_of(2) == alone(job_of(2), 256)


def test_abort_is_idempotent_and_forgives_unknown_and_finished_jobs() -> None:
    bench = Bench()
    bench.engine.abort(99)
    bench.engine.submit(job_of(1))
    bench.run()
    bench.engine.abort(1)
    bench.engine.submit(job_of(2))
    bench.engine.abort(2)
    bench.engine.abort(2)
    bench.run()
    assert bench.end_of(1).finish == "length"
    assert bench.end_of(2).finish == "cancelled"
    assert bench.backend.n_kept_for_jobs == 0


@pytest.mark.parametrize("fails_late", [False, True])
@pytest.mark.parametrize("error", [BackendError("bad step"), ValueError("a bug")])
def test_a_failed_step_costs_the_jobs_of_its_plan_alone(fails_late: bool, error: Exception) -> None:
    bench = Bench(FakeBackend(n_slots=2, failures={3: error}, fails_late=fails_late))
    for k in range(1, 5):  # two run, two wait
        bench.engine.submit(job_of(k))
    bench.run()
    for k in (1, 2):
        assert bench.end_of(k).finish == "failed"
        assert str(error) in bench.end_of(k).error
    for k in (3, 4):
        assert bench.tokens_of(k) == alone(job_of(k), 256)
    assert bench.engine.stats.n_failed_steps == 1
    assert not bench.lost


def test_what_fails_with_nobody_s_job_in_it_is_not_tried_for_ever() -> None:
    bench = Bench()
    bench.engine.submit(job_of(1, n_max=5))
    bench.engine.step()
    bench.engine.step()
    bench.backend.failures = dict.fromkeys(range(2, 99), BackendError("it can do nothing any more"))
    bench.run(limit=20)
    assert bench.end_of(1).finish == "failed"
    assert bench.lost == ["3 steps in a row failed with no job in them: it can do nothing any more"]


def test_a_bug_is_logged_with_its_trace_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(FakeBackend(failures={0: ValueError("a bug"), 1: ValueError("a bug")}))
    with caplog.at_level(logging.ERROR):
        for k in (1, 2):
            bench.engine.submit(job_of(k))
            bench.run()
    assert [record.exc_info is not None for record in caplog.records] == [True, False]


def test_no_room_is_a_reason_to_plan_less_not_a_failure() -> None:
    bench = Bench(FakeBackend(n_slots=2, is_unified=True, n_cells=256, failures={1: NoRoom(""), 4: NoRoom("")}))
    jobs = [job_of(k, n_prompt=30) for k in (1, 2)]
    for job in jobs:
        bench.engine.submit(job)
    bench.run()
    for job in jobs:
        assert bench.tokens_of(job.id) == alone(job, 256)
    assert bench.engine.stats.n_failed_steps == 0


def test_a_lost_backend_fails_every_job_and_is_told_once() -> None:
    bench = Bench(FakeBackend(n_slots=2, failures={2: BackendLost("the device is gone")}))
    for k in range(1, 6):
        bench.engine.submit(job_of(k))
    bench.run()
    assert [bench.end_of(k).error for k in range(1, 6)] == 5 * ["the device is gone"]
    assert bench.lost == ["the device is gone"] == [bench.engine.lost]
    bench.engine.submit(job_of(6))
    assert bench.end_of(6).finish == "failed"
    assert not bench.engine.step()


def test_a_scheduler_that_breaks_its_laws_fails_every_job_and_no_thread() -> None:
    class Broken(Scheduler):
        def commit(self, plan: Plan, sampled: Sequence[Sampled], now: float, step_s: float) -> list[News]:
            raise AssertionError("the counts do not add up")

        def fail_all(self, error: str) -> list[Emission]:
            raise AssertionError("nor here")

    bench = Bench()
    bench.engine = Engine(
        bench.backend, Broken.for_backend(bench.backend), bench.published.append, on_lost=bench.lost.append
    )
    bench.engine.submit(job_of(1))
    bench.engine.submit(job_of(2))
    bench.run()
    assert "the counts do not add up" in bench.lost[0]
    assert bench.end_of(1).finish == bench.end_of(2).finish == "failed"


def test_a_job_that_can_never_run_fails_alone() -> None:
    bench = Bench()
    bench.engine.submit(job_of(1, n_prompt=300))
    bench.engine.submit(job_of(2))
    bench.run()
    assert bench.end_of(1).finish == "failed"
    assert bench.end_of(2).finish == "length"


def test_closing_fails_what_is_left_and_frees_the_backend() -> None:
    bench = Bench()
    bench.engine.submit(job_of(1))
    bench.engine.step()
    bench.engine.close()
    bench.engine.close()
    assert bench.end_of(1).error == "the model was closed"
    assert bench.backend.is_closed
    bench.engine.submit(job_of(2))
    assert bench.end_of(2).finish == "failed"
    assert not bench.engine.step()


def test_stats_count_tokens_steps_and_time() -> None:
    bench = Bench(FakeBackend(cost=lambda plan: 0.25))
    for k in (1, 2):
        bench.engine.submit(job_of(k, n_prompt=40))
    bench.engine.step()
    assert bench.engine.stats.n_running == 2
    assert bench.engine.stats.n_cells_used > 0
    bench.run()
    stats = bench.engine.stats
    assert (stats.n_running, stats.n_waiting) == (0, 0)
    assert (stats.n_tokens_in, stats.n_tokens_out) == (80, 12)
    assert stats.n_steps == bench.backend.n_steps
    assert stats.backend_s == pytest.approx(0.25 * stats.n_steps)
    assert stats.host_s == pytest.approx(0.0)
    assert stats.step_s == pytest.approx(0.25)


def test_time_of_the_thread_is_that_of_the_steps_and_of_their_news() -> None:
    bench = Bench(FakeBackend(cost=lambda plan: HOLD_S / 16))

    def tell(news: list[News]) -> None:
        bench.backend.now += 0.25

    engine = Engine(bench.backend, bench.scheduler, tell, clock=bench.clock)
    engine.submit(job_of(1))
    while engine.step():
        engine.flush()  # as a worker does that has another engine
    assert engine.stats.thread_s == pytest.approx(bench.backend.now)
    other = EngineStats(n_tokens_in=5, n_running=9, host_s=1.0, backend_s=2.0)
    both = engine.stats.and_of(other)
    assert both.thread_s == pytest.approx(bench.backend.now + 3.0)
    assert (both.n_running, both.n_tokens_in) == (0, engine.stats.n_tokens_in + 5)


def test_a_step_that_runs_can_be_seen_from_outside() -> None:
    seen: list[tuple[float, float]] = []

    class Watched(FakeBackend):
        def launch(self, plan: Plan) -> None:
            assert bench.engine.doing is not None
            seen.append((bench.engine.doing.since, bench.engine.doing.expected_s))
            super().launch(plan)

    bench = Bench(Watched(cost=lambda plan: 0.5))
    bench.engine.submit(job_of(1))
    bench.run()
    assert bench.engine.doing is None
    assert seen[0] == (0.0, FIRST_S)
    assert seen[-1][1] == pytest.approx(0.5)


def line(a: float, b: float) -> Callable[[int], float]:
    return lambda n: a + b * n


def test_pace_knows_a_large_chunk_from_small_steps() -> None:
    pace, cost = Pace(), line(0.01, 0.002)
    for n_tokens in [1, 1, 64, 1, 1, 32] * 10:
        pace.learn(n_tokens, cost(n_tokens))
    assert pace.expected_s(512) == pytest.approx(cost(512), rel=0.01)


def test_pace_does_not_take_the_noise_of_small_steps_for_the_price_of_a_large_one() -> None:
    pace = Pace()
    pace.learn(512, 0.2)
    for k in range(2000):  # so long that the large one is forgotten; the larger of these happen to be the quicker
        pace.learn(1 + k % 8, 0.01 - 0.0001 * (k % 8))
    assert pace.expected_s(8) < 0.012
    assert pace.expected_s(512) > 0.2


def test_pace_expects_too_much_rather_than_too_little_of_what_it_has_not_seen() -> None:
    pace = Pace()
    for _ in range(10):
        pace.learn(4, 0.02)
    assert pace.expected_s(4) == pytest.approx(0.02)
    assert pace.expected_s(400) == pytest.approx(2.0)
