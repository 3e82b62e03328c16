"""Laws of the outbox: one wake-up a step, nothing lost, nothing kept for those who left."""

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from llamahost.core.errors import DeadlineExceeded, GenerationFailed
from llamahost.core.work import Emission, OneMore, RowLogprobs, Times
from llamahost.engine.outbox import FEW, N_TURNS, N_WAKES, PAUSE_S, REST, TICK_S, Outbox
from tests.on_loop import on_loop, turns


class CountingLoop:
    """The running loop, with its cross-thread calls counted and its clock in the test's hand.

    Whatever the machine does, a pass takes no time by it, so that none is put off: `call_later` is not called.
    """

    def __init__(self) -> None:
        self.n_wakes = 0
        self.now = 1000.0
        self._loop = asyncio.get_running_loop()

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        self.n_wakes += 1
        return self._loop.call_soon_threadsafe(callback, *args)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        return self._loop.call_soon(callback, *args)

    def create_future(self) -> "asyncio.Future[Any]":
        return self._loop.create_future()

    def time(self) -> float:
        return self.now


class HandLoop:
    """A loop whose turns are taken by hand: each takes `turn_s`, and runs what was due when it began."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turn_s = 0.0
        self._ready: list[Callable[[], object]] = []
        self._later: list[tuple[float, Callable[[], object]]] = []

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._ready.append(lambda: callback(*args))

    call_soon_threadsafe = call_soon

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> None:
        self._later.append((self.now + delay_s, callback))

    def time(self) -> float:
        return self.now

    def run(self) -> None:
        """Turns until nothing is to be done soon."""
        while self._ready:
            ready, self._ready = self._ready, []
            self.now += self.turn_s
            for callback in ready:
                callback()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._ready += [callback for at, callback in self._later if at <= self.now + 1e-9]
        self._later = [(at, callback) for at, callback in self._later if at > self.now + 1e-9]
        self.run()


def outbox_of(loop: CountingLoop | HandLoop, **options: Any) -> Outbox:
    part: Any = loop  # of a loop, that an outbox uses
    return Outbox(part, clock=loop.time, **options)


@on_loop
async def test_a_step_costs_one_wake_up_however_many_jobs_it_had() -> None:
    loop = CountingLoop()
    outbox = outbox_of(loop)
    readers = [outbox.open([k]) for k in range(32)]
    outbox.publish([Emission(k, tokens=(k,)) for k in range(32)])
    assert loop.n_wakes == 1
    assert [(await anext(reader)).tokens for reader in readers] == [(k,) for k in range(32)]


@on_loop
async def test_steps_that_the_loop_has_not_seen_yet_share_a_wake_up() -> None:
    loop = CountingLoop()
    outbox = outbox_of(loop)
    reader = outbox.open([1])
    for token in range(10):
        outbox.publish([Emission(1, tokens=(token,))])
    assert loop.n_wakes == 1
    assert (await anext(reader)).tokens == tuple(range(10))
    await turns()
    outbox.publish([Emission(1, tokens=(10,))])
    assert loop.n_wakes == 2


@pytest.mark.parametrize(
    ("took_s", "pause_s"),
    [(0.004, REST * 0.004), (0.008, REST * 0.008), (1.0, PAUSE_S), (0.9 * TICK_S / REST, 0.0)],
    ids=["a pass", "a long one", "one of a second", "one of no matter"],
)
def test_a_pass_is_followed_by_a_longer_time_without_one_within_bounds(took_s: float, pause_s: float) -> None:
    loop = HandLoop()
    outbox = outbox_of(loop)
    readers = [outbox.open([k]) for k in range(FEW)]
    outbox.publish([Emission(k, tokens=(k,)) for k in range(FEW)])
    loop.turn_s = took_s / N_TURNS
    loop.run()
    assert [reader.n_unread for reader in readers] == [1] * FEW, "what comes to a loop at rest is told at once"
    loop.turn_s = 0.0
    for step in range(3):
        outbox.publish([OneMore(list(range(FEW)), [step] * FEW, loop.now)])
    loop.run()
    if pause_s:
        loop.sleep(pause_s - 0.0005)
        assert [reader.n_unread for reader in readers] == [1] * FEW
        loop.sleep(0.0005)
    assert [reader.n_unread for reader in readers] == [4] * FEW, "then all that has come is told at once"


def test_news_of_few_streams_is_never_held() -> None:
    loop = HandLoop()
    outbox = outbox_of(loop)
    reader = outbox.open([1])
    loop.turn_s = 0.5
    for n in range(1, 5):
        outbox.publish([Emission(1, tokens=(n,))])
        loop.run()
        assert reader.n_unread == n


@on_loop
async def test_a_turn_of_the_loop_wakes_few_readers() -> None:
    """Between two turns the loop lets go of the GIL, which a worker may wait for."""
    outbox = outbox_of(CountingLoop())
    n = 3 * N_WAKES + 1
    reading = [asyncio.ensure_future(outbox.open([k]).__anext__()) for k in range(n)]
    await turns()
    outbox.publish([Emission(k, tokens=(k,)) for k in range(n)])
    told = [0]
    while told[-1] < n:
        await asyncio.sleep(0)
        told.append(sum(task.done() for task in reading))
    assert max(after - before for before, after in pairwise(told)) == N_WAKES
    assert [task.result().tokens for task in reading] == [(k,) for k in range(n)]


@on_loop
async def test_a_reader_that_came_by_itself_before_it_was_woken_waits_for_what_comes_next() -> None:
    outbox = outbox_of(CountingLoop())
    n = N_WAKES + 1
    *others, late = [outbox.open([k]) for k in range(n)]
    reading = [asyncio.ensure_future(anext(reader)) for reader in others]
    outbox.publish([Emission(k, tokens=(k,)) for k in range(n)])

    async def told() -> list[tuple[int, ...]]:
        return [emission.tokens async for emission in late]

    at_last = asyncio.ensure_future(told())  # runs after the pass, and before the turn that wakes the last one
    await turns()
    assert not at_last.done()
    outbox.publish([Emission(n - 1, tokens=(7,), finish="stop")])
    assert await at_last == [(n - 1,), (7,)]
    await asyncio.gather(*reading)


@on_loop
async def test_tokens_alone_are_told_in_their_order_among_emissions_with_the_times_so_far() -> None:
    outbox = outbox_of(CountingLoop())
    reader = outbox.open([1])
    outbox.publish([Emission(1, tokens=(5,), n_cached=3, times=Times(1, 2, 3, 3))])
    outbox.publish([OneMore([1, 2], [6, 60], 4.0)])
    outbox.publish([OneMore([2, 1], [70, 7], 5.0)])
    await turns()
    assert await anext(reader) == Emission(1, (5, 6, 7), n_cached=3, times=Times(1, 2, 3, 5.0))
    outbox.publish([OneMore([1], [8], 6.0)])
    await turns()
    assert await anext(reader) == Emission(1, (8,), times=Times(1, 2, 3, 6.0))
    outbox.publish([OneMore([1], [9], 7.0)])
    outbox.publish([Emission(1, n_hidden=1, finish="stop", times=Times(1, 2, 3, 8.0))])
    await turns()
    assert await anext(reader) == Emission(1, (9,), n_hidden=1, finish="stop", times=Times(1, 2, 3, 8.0))


@on_loop
async def test_steps_of_the_same_streams_are_told_as_one_with_the_time_of_the_last() -> None:
    outbox = outbox_of(CountingLoop())
    one, other = outbox.open([1]), outbox.open([2])
    same, less = [1, 2], [2]
    outbox.publish([OneMore(same, [5, 50], 4.0), OneMore(same, [6, 60], 5.0)])
    outbox.publish([Emission(1, finish="stop", times=Times(1, 2, 3, 5.5)), OneMore(less, [70], 6.0)])
    outbox.publish([OneMore(less, [80], 7.0)])
    await turns()
    assert (one.n_unread, other.n_unread) == (2, 4)
    assert await anext(one) == Emission(1, (5, 6), finish="stop", times=Times(1, 2, 3, 5.5))
    assert await anext(other) == Emission(2, (50, 60, 70, 80), times=Times(last=7.0))
    assert (one.n_unread, other.n_unread) == (0, 0)


@on_loop
async def test_no_news_wakes_nobody() -> None:
    loop = CountingLoop()
    outbox_of(loop).publish([])
    assert loop.n_wakes == 0


@on_loop
async def test_unread_emissions_of_a_job_are_merged_and_the_end_is_kept() -> None:
    outbox = outbox_of(CountingLoop())
    reader = outbox.open([1])
    rows = [RowLogprobs(-1.0), RowLogprobs(-2.0)]
    outbox.publish([Emission(1, tokens=(5,), logprobs=(rows[0],), n_cached=3)])
    outbox.publish([Emission(1, tokens=(6,), logprobs=(rows[1],))])
    outbox.publish([Emission(1, n_hidden=1, finish="stop", times=Times(1, 2, 3, 4))])
    await turns()
    assert [emission async for emission in reader] == [
        Emission(1, (5, 6), tuple(rows), n_cached=3, n_hidden=1, finish="stop", times=Times(1, 2, 3, 4))
    ]


@on_loop
async def test_jobs_of_one_reader_keep_their_own_order_and_take_turns() -> None:
    outbox = outbox_of(CountingLoop())
    reader = outbox.open([1, 2])
    outbox.publish([Emission(1, tokens=(10,)), Emission(2, tokens=(20,))])
    outbox.publish([Emission(1, tokens=(11,), finish="stop"), Emission(2, tokens=(21,))])
    await turns()
    assert (await anext(reader)).tokens == (10, 11)
    outbox.publish([Emission(2, tokens=(22,), finish="length")])
    await turns()
    assert (await anext(reader)).tokens == (20, 21, 22)
    with pytest.raises(StopAsyncIteration):
        await anext(reader)
    assert not outbox._unread


@on_loop
async def test_a_failed_job_raises_with_the_engines_words() -> None:
    outbox = outbox_of(CountingLoop())
    reader = outbox.open([1])
    outbox.publish([Emission(1, finish="failed", error="the device is gone")])
    with pytest.raises(GenerationFailed, match="the device is gone"):
        await anext(reader)
    assert not outbox._unread


@on_loop
async def test_news_of_unknown_and_closed_jobs_is_dropped() -> None:
    outbox = outbox_of(CountingLoop())
    reader = outbox.open([1, 2])
    reader.drop(1)
    outbox.publish([Emission(1, tokens=(1,)), Emission(2, tokens=(2,)), Emission(99, tokens=(3,))])
    assert (await anext(reader)).job_id == 2
    reader.close()
    assert not outbox._unread
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


@on_loop
async def test_dropping_the_last_job_ends_a_reader_that_waits() -> None:
    outbox = outbox_of(CountingLoop())
    reader = outbox.open([1])
    waiting = asyncio.ensure_future(reader.__anext__())
    await turns()
    reader.drop(1)
    with pytest.raises(StopAsyncIteration):
        await waiting


@on_loop
async def test_a_reader_made_to_fail_forgets_what_is_unread_and_raises_ever_after() -> None:
    outbox = outbox_of(CountingLoop())
    reader = outbox.open([1])
    outbox.publish([Emission(1, tokens=(1,))])
    await turns()
    reader.fail(DeadlineExceeded(2.0))
    reader.fail(RuntimeError("later errors are not told"))
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await anext(reader)


@on_loop
async def test_a_cancelled_read_loses_nothing() -> None:
    outbox = outbox_of(CountingLoop())
    reader = outbox.open([1])
    waiting = asyncio.ensure_future(reader.__anext__())
    await turns()
    waiting.cancel()
    outbox.publish([Emission(1, tokens=(7,))])
    await turns()
    assert waiting.cancelled()
    assert (await anext(reader)).tokens == (7,)


@on_loop
async def test_a_reader_that_stalls_with_too_much_unread_is_told_of_once_it_is_too_late() -> None:
    loop = CountingLoop()
    outbox = outbox_of(loop, stall_s=10.0, n_unread=4)
    stalled: list[int] = []
    reader = outbox.open([1], lambda: stalled.append(1))

    async def publish(n: int) -> None:
        outbox.publish([Emission(1, tokens=(0,) * n)])
        await turns()

    await publish(4)
    loop.now += 100
    await publish(1)  # now there are too many, and the clock starts
    loop.now += 9
    await publish(1)
    assert not stalled
    loop.now += 2
    await publish(1)
    assert stalled
    stalled.clear()
    await anext(reader)  # whoever reads again starts anew
    await publish(5)
    loop.now += 9
    await publish(1)
    assert not stalled


@on_loop
async def test_a_reader_of_several_jobs_that_reads_on_does_not_stall_though_it_never_has_all() -> None:
    loop = CountingLoop()
    outbox = outbox_of(loop, stall_s=10.0, n_unread=4)
    stalled: list[int] = []
    reader = outbox.open([1, 2], lambda: stalled.append(1))
    for _ in range(5):
        outbox.publish([Emission(k, tokens=(0,) * 5) for k in (1, 2)])
        await turns()
        loop.now += 9
        await anext(reader)
    assert not stalled


@on_loop
async def test_what_one_reader_does_about_its_stall_takes_no_news_from_others() -> None:
    loop = CountingLoop()
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context["exception"])))
    outbox = outbox_of(loop, stall_s=10.0, n_unread=4)

    def fail() -> None:
        raise RuntimeError("a bug")

    outbox.open([1], fail)
    reader = outbox.open([2])
    for _ in range(3):
        outbox.publish([Emission(1, tokens=(0,) * 5), Emission(2, tokens=(1,))])
        await turns()
        loop.now += 11
    assert reader.n_unread == 3
    assert complaints == ["a bug"], "once"


def test_a_closed_loop_is_no_matter() -> None:
    loop = asyncio.new_event_loop()
    outbox = Outbox(loop)
    loop.close()
    outbox.publish([Emission(1, tokens=(1,))])
    outbox.publish([Emission(1, tokens=(2,))])


@on_loop
async def test_nothing_is_lost_between_threads() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    n_threads, n_steps = 4, 2000
    readers = [outbox.open([k]) for k in range(n_threads)]

    def publish(job_id: int) -> None:
        for token in range(n_steps):
            outbox.publish([Emission(job_id, tokens=(token,), finish="length" if token == n_steps - 1 else None)])

    threads = [threading.Thread(target=publish, args=(k,)) for k in range(n_threads)]
    for thread in threads:
        thread.start()
    for reader in readers:
        tokens = [token async for emission in reader for token in emission.tokens]
        assert tokens == list(range(n_steps))
    for thread in threads:
        thread.join()
    assert not outbox._unread
