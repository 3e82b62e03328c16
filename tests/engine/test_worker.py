"""Laws of the worker: messages in order and before the next plan, no lost wake-up, a thread that ends when told."""

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamahost.core.work import Emission, News, Plan, Sampled
from llamahost.engine.engine import HOLD_S, Doing, Engine, EngineStats
from llamahost.engine.scheduler import Scheduler
from llamahost.engine.worker import Worker
from tests.engine.driving import job_of
from tests.fakes import FakeBackend, Gated, alone, one_by_one, per_token
from tests.on_loop import LIMIT_S


class Mail:
    """What an engine published, to be waited for."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[list[News]] = SimpleQueue()
        self.tokens: dict[int, list[int]] = {}
        self.ends: dict[int, Emission] = {}

    def wait_for_end(self, *job_ids: int) -> None:
        while not set(job_ids) <= self.ends.keys():
            for emission in one_by_one(self.queue.get(timeout=LIMIT_S)):
                self.tokens.setdefault(emission.job_id, []).extend(emission.tokens)
                if emission.finish is not None:
                    self.ends[emission.job_id] = emission


def engine_on(backend: FakeBackend, clock: Callable[[], float] | None = None) -> tuple[Engine, Mail]:
    mail = Mail()
    scheduler = Scheduler.for_backend(backend, is_checked=True)
    return Engine(backend, scheduler, mail.queue.put, clock=clock or (lambda: backend.now)), mail


@pytest.fixture
def worker() -> Iterator[Worker]:
    threads = set(threading.enumerate())
    worker = Worker("test", stall_s=30.0)
    worker.start()
    yield worker
    assert worker.close(LIMIT_S)
    assert set(threading.enumerate()) <= threads


def test_jobs_are_answered_and_the_thread_sleeps_between_them(worker: Worker) -> None:
    engine, mail = engine_on(FakeBackend())
    worker.attach(engine)
    for k in range(1, 6):
        worker.submit(engine, job_of(k))
        mail.wait_for_end(k)
        assert mail.tokens[k] == alone(job_of(k), 256)


def test_a_message_to_an_engine_that_has_had_its_turn_wakes_it(worker: Worker) -> None:
    engines = [engine_on(FakeBackend()) for _ in range(3)]
    for engine, _ in engines:
        worker.attach(engine)
    for k in range(1, 200):
        engine, mail = engines[k % 3]
        worker.submit(engine, job_of(k, n_max=1))
        mail.wait_for_end(k)


def test_engines_share_the_time_and_not_the_steps() -> None:
    order: list[int] = []

    class Noted(Gated):
        def launch(self, plan: Plan) -> None:
            order.append(backends.index(self))
            super().launch(plan)

    backends = [Noted(cost=per_token(0.003, 0.0)), Noted(cost=per_token(0.001, 0.0))]
    backends[1].is_shut = False
    engines = [engine_on(backend) for backend in backends]
    worker = Worker("test", clock=lambda: backends[0].now + backends[1].now)
    worker.start()
    for engine, _ in engines:
        worker.attach(engine)
        worker.submit(engine, job_of(1, n_max=20))
    assert backends[0].entered.acquire(timeout=LIMIT_S)
    backends[0].open()  # now at the latest both have work
    for _, mail in engines:
        mail.wait_for_end(1)
    assert worker.close(LIMIT_S)
    both = order[order.index(1) :][:16]
    assert both.count(0) in (3, 4, 5)
    assert 0.75 <= 3 * both.count(0) / both.count(1) <= 1.5


class Timed:
    """An engine whose work is a list: what each step takes of a clock that all share, and what its news takes then."""

    def __init__(self, clock: list[int], work: list[tuple[int, int]], had: Callable[[int], None]) -> None:
        self.stats = EngineStats()
        self.doing: Doing | None = None
        self._clock, self._work, self._had = clock, work, had
        self._news = 0

    def step(self) -> bool:
        if not self._work:
            return False
        step, self._news = self._work.pop()
        self._clock[0] += step
        self._had(step + self._news)
        return True

    def flush(self) -> None:
        self._clock[0] += self._news

    def abort(self, job_id: int) -> None: ...

    def close(self) -> None: ...


steps = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=60)


@settings(max_examples=25)  # each has a thread
@given(steps, steps)
def test_of_two_that_have_work_each_gets_half_the_time_less_one_step(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    """Over any stretch of their steps, whatever these take, and what is told of them."""
    longest = max(map(sum, first + second))
    leads = [0]  # what the first has had beyond the second, while both have work
    are_done = threading.Event()

    def had(time: int) -> None:
        if first and second:
            leads.append(leads[-1] + time)
        elif not first and not second:
            are_done.set()

    clock = [0]
    worker = Worker("test", clock=lambda: clock[0])
    worker.attach(Timed(clock, first, had))
    worker.attach(Timed(clock, second, lambda time: had(-time)))
    worker.start()
    assert are_done.wait(LIMIT_S)
    assert worker.close(LIMIT_S)
    # of a time of a + b, a is less than half by (b - a) / 2
    assert max(leads) - min(leads) <= 2 * longest


def test_news_of_one_engine_does_not_wait_for_the_step_of_another(worker: Worker) -> None:
    unread: list[int] = []  # tokens of the first that were sampled and not told, whenever the second began a step

    class Counting(FakeBackend):
        n_sampled = 0

        def collect(self) -> Sequence[Sampled]:
            sampled = super().collect()
            self.n_sampled += sum(len(each.tokens) for each in sampled)
            return sampled

    n_told = 0

    def tell(news: list[News]) -> None:
        nonlocal n_told
        n_told += sum(len(each.tokens) for each in news)

    class Watching(FakeBackend):
        def launch(self, plan: Plan) -> None:
            unread.append(first_backend.n_sampled - n_told)
            super().launch(plan)

    first_backend = Counting(cost=per_token(HOLD_S / 100, 0.0))  # steps that would share a wake-up if it were alone
    first = Engine(first_backend, Scheduler.for_backend(first_backend), tell, clock=lambda: first_backend.now)
    second, mail = engine_on(Watching())
    for engine in (first, second):
        worker.attach(engine)
    worker.submit(first, job_of(1, n_max=40))
    worker.submit(second, job_of(2, n_max=40))
    mail.wait_for_end(2)
    assert len(unread) >= 40
    assert not any(unread)


def test_an_abort_sent_during_a_step_is_obeyed_before_the_next_plan(worker: Worker) -> None:
    backend = Gated(n_slots=1)
    engine, mail = engine_on(backend)
    worker.attach(engine)
    worker.submit(engine, job_of(1, n_max=100))
    assert backend.entered.acquire(timeout=LIMIT_S)
    worker.submit(engine, job_of(2))
    worker.abort(engine, 1)
    worker.abort(engine, 1)
    backend.open()
    mail.wait_for_end(1, 2)
    assert mail.ends[1].finish == "cancelled"
    assert len(mail.tokens[1]) <= 1
    assert {span.job_id for span in backend.plans[1].spans} == {2}


def test_detaching_fails_the_jobs_and_frees_the_backend(worker: Worker) -> None:
    backend, other = Gated(), FakeBackend()
    engine, mail = engine_on(backend)
    second, second_mail = engine_on(other)
    worker.attach(engine)
    worker.attach(second)
    worker.submit(engine, job_of(1, n_max=100))
    assert backend.entered.acquire(timeout=LIMIT_S)
    done = worker.detach(engine)
    assert not done.done()
    backend.open()
    done.result(LIMIT_S)
    assert backend.is_closed
    assert not other.is_closed
    mail.wait_for_end(1)
    assert mail.ends[1].finish == "failed"
    worker.submit(engine, job_of(2))  # too late, and told so
    mail.wait_for_end(2)
    worker.submit(second, job_of(3))
    second_mail.wait_for_end(3)
    assert second_mail.ends[3].finish == "length"


def test_an_error_in_closing_reaches_whoever_detaches(worker: Worker) -> None:
    class Stuck(FakeBackend):
        def close(self) -> None:
            raise RuntimeError("it cannot be freed")

    engine, _ = engine_on(Stuck())
    worker.attach(engine)
    with pytest.raises(RuntimeError, match="cannot be freed"):
        worker.detach(engine).result(LIMIT_S)


def test_closing_closes_every_engine_and_answers_whoever_comes_later() -> None:
    worker = Worker("test")
    worker.start()
    backend = FakeBackend()
    engine, mail = engine_on(backend)
    worker.attach(engine)
    assert worker.close(LIMIT_S)
    assert worker.close(LIMIT_S)
    assert backend.is_closed
    assert worker.detach(engine).done()
    worker.submit(engine, job_of(1))
    mail.wait_for_end(1)
    assert mail.ends[1].finish == "failed"
    assert not worker.watch(0.0).is_stalled


def test_a_worker_that_was_never_started_can_be_closed() -> None:
    assert Worker("test").close(LIMIT_S)


def test_a_step_that_does_not_return_is_a_stall_and_closing_does_not_wait_for_it() -> None:
    worker = Worker("test", stall_s=30.0)
    worker.start()
    backend = Gated()
    engine, _ = engine_on(backend, clock=lambda: 0.0)
    worker.attach(engine)
    worker.submit(engine, job_of(1, n_max=1))
    assert backend.entered.acquire(timeout=LIMIT_S)
    watch = worker.watch(100.0)
    assert watch.busy_for_s == 100.0
    assert not watch.is_stalled  # the first step may take long: nothing is known of this machine
    assert worker.watch(121.0).is_stalled
    assert not worker.close(timeout_s=0.01)
    backend.open()
    assert worker.close(LIMIT_S)


def test_what_is_a_stall_follows_the_measured_speed(worker: Worker) -> None:
    now = 0.0
    backend = Gated()
    engine, mail = engine_on(backend, clock=lambda: now)
    worker.attach(engine)
    worker.submit(engine, job_of(1, n_max=20))
    for _ in range(20):  # each step takes three seconds: a slow machine
        assert backend.entered.acquire(timeout=LIMIT_S)
        now += 3.0
        backend.gate.release()
    mail.wait_for_end(1)
    assert worker.watch(now).busy_for_s == 0.0
    worker.submit(engine, job_of(2, n_max=1))
    assert backend.entered.acquire(timeout=LIMIT_S)
    assert not worker.watch(now + 59.0).is_stalled
    assert worker.watch(now + 200.0).is_stalled
    backend.open()
    mail.wait_for_end(2)
