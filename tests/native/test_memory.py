"""What a slot holds after copies, cuts, saves and restores is what a fresh computation would have put there."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llamahost.core.errors import BackendError
from llamahost.core.work import Copy, Plan, Restore, Span, Truncation
from llamahost.native.model import Model
from tests.native.driver import Driver, assert_close, check_held, row_of

ARCHITECTURES = ("llama", "swa", "recurrent", "hybrid")
PROMPT = [1, *(40 + 7 * i % 200 for i in range(60))]
MORE = [300, 9, 77, 301]


@pytest.fixture(params=[f"{a}-{layout}" for a in ARCHITECTURES for layout in ("split", "unified")])
def driver(request: pytest.FixtureRequest, model_of: Callable[[Path], Model]) -> Iterator[Driver]:
    architecture, layout = request.param.split("-")
    path: Path = request.getfixturevalue(f"tiny_{architecture}")
    with Driver(path, is_unified=layout == "unified", model=model_of(path)) as driver:
        yield driver


def test_batched_logits_are_those_computed_alone(driver: Driver) -> None:
    prompts = [PROMPT[: 20 + 9 * slot] for slot in range(4)]
    alone = []
    for prompt in prompts:
        alone.append(driver.row(0, 0, prompt))
        driver.clear(0)
    jobs = [driver.begin() for _ in prompts]
    driver.run(
        Plan(spans=tuple(Span(jobs[i], i, 0, array("i", prompt[:-1]), 0) for i, prompt in enumerate(prompts[:2])))
    )
    driver.run(Plan(spans=tuple(Span(jobs[i], i, 0, array("i", prompts[i][:-1]), 0) for i in (2, 3))))
    driver.run(
        Plan(
            spans=tuple(
                Span(jobs[i], i, len(prompt) - 1, array("i", prompt[-1:]), 1) for i, prompt in enumerate(prompts)
            )
        )
    )
    for i, wanted in enumerate(alone):
        assert_close(row_of(driver.backend, i), wanted)


def test_rows_keep_the_order_of_the_batch(driver: Driver) -> None:
    """A chunk and decode tokens in one step are computed in another order than they were given."""
    wanted = [driver.row(slot, 0, PROMPT[: 10 + slot]) for slot in range(4)]
    driver.clear(0, 1, 2, 3)
    for slot in (0, 2, 3):
        driver.feed(slot, 0, PROMPT[: 9 + slot])
    job = driver.begin()
    spans = [Span(job, slot, 9 + slot, array("i", PROMPT[9 + slot : 10 + slot]), 1) for slot in (0, 2, 3)]
    spans.insert(1, Span(job, 1, 0, array("i", PROMPT[:11]), 1))
    driver.run(Plan(spans=tuple(spans)))
    for slot in range(4):
        assert_close(row_of(driver.backend, slot), wanted[slot])


@pytest.mark.parametrize("with_decode", [False, True])
def test_a_whole_copy_continues_like_its_source(driver: Driver, with_decode: bool) -> None:
    wanted = driver.answer(3, 0, PROMPT + MORE, 6)
    driver.clear(3)
    driver.feed(0, 0, PROMPT)
    driver.feed(1, 0, PROMPT[5:20])  # what the target held is gone
    job = driver.begin()
    with_decode |= driver.backend.can_truncate and not driver.backend.can_cut_kept  # which has no other copies
    driver.copy(0, 1, len(PROMPT), Span(job, 2, 0, array("i", MORE), 1) if with_decode else None)
    check_held(driver.backend, {0: len(PROMPT), 1: len(PROMPT)})
    assert driver.answer(1, len(PROMPT), MORE, 6) == wanted
    assert driver.answer(0, len(PROMPT), MORE, 6) == wanted


def test_one_prompt_is_copied_to_many(driver: Driver) -> None:
    wanted = driver.answer(3, 0, PROMPT + MORE, 4)
    driver.clear(3)
    driver.feed(0, 0, PROMPT)
    job = driver.begin()
    copies = tuple(Copy(0, target, len(PROMPT)) for target in (1, 2, 3))
    driver.run(Plan(copies=copies, spans=(Span(job, 0, len(PROMPT), array("i", [5]), 1),)))
    for slot in (1, 2, 3):
        assert driver.answer(slot, len(PROMPT), MORE, 4) == wanted


@pytest.mark.parametrize("n", [3, 20, 59])
def test_a_partial_copy_is_exact_or_refused(driver: Driver, n: int) -> None:
    driver.feed(0, 0, PROMPT)
    if not driver.backend.can_truncate:
        with pytest.raises(BackendError, match="whole"):
            driver.copy(0, 1, n)
        check_held(driver.backend, {0: len(PROMPT), 1: 0})
        return
    wanted = driver.answer(2, 0, PROMPT[:n] + MORE, 4)
    job = driver.begin()
    driver.copy(0, 1, n, Span(job, 3, 0, array("i", MORE), 1))
    check_held(driver.backend, {0: len(PROMPT), 1: n})
    assert driver.answer(1, n, MORE, 4) == wanted
    assert driver.answer(0, len(PROMPT), MORE, 4) == driver_alone(driver, PROMPT + MORE, 4)


def driver_alone(driver: Driver, tokens: list[int], n: int) -> list[int]:
    driver.clear(2)
    return driver.answer(2, 0, tokens, n)


@pytest.mark.parametrize(("n", "is_whole"), [(16, False), (61, True)])
def test_a_split_kv_copies_little_through_host_memory_and_much_by_the_slot(
    tiny_llama: Path, n: int, is_whole: bool
) -> None:
    """A slot copy moves all 256 cells of the slot, however few are used; and either way what comes is the same."""
    with Driver(tiny_llama) as driver:
        wanted = driver.answer(3, 0, PROMPT[:n] + MORE, 4)
        driver.clear(3)
        driver.feed(0, 0, PROMPT[:n])
        assert driver.backend._copies_whole_slots(Copy(0, 1, n), has_decode=True) == is_whole
        driver.copy(0, 1, n, with_span=Span(driver.begin(), 2, 0, array("i", PROMPT[:5]), 1))
        assert driver.answer(1, n, MORE, 4) == wanted


@pytest.mark.parametrize("n_copied", [20, len(PROMPT)])
def test_a_windows_slot_is_copied_by_the_slot_however_little_it_holds(tiny_swa: Path, n_copied: int) -> None:
    """Host memory holds the last window alone: what is cut, now or later, would lack what stood before."""
    with Driver(tiny_swa, n_ctx=1024) as driver:
        wanted = driver.row(3, 0, PROMPT[:20] + MORE)
        driver.feed(0, 0, PROMPT)
        driver.copy(0, 1, n_copied, with_span=Span(driver.begin(), 2, 0, array("i", PROMPT[:5]), 1))
        check_held(driver.backend, {0: len(PROMPT), 1: n_copied})
        driver.run(Plan(truncations=(Truncation(1, 20),)))
        assert_close(driver.row(1, 20, MORE), wanted)
        with pytest.raises(BackendError, match="sliding window"):
            driver.copy(0, 1, n_copied)


@pytest.mark.parametrize("n", [1, 33, 60])
def test_a_cut_slot_continues_as_if_never_longer(driver: Driver, n: int) -> None:
    wanted = driver.answer(2, 0, PROMPT[:n] + MORE, 4)
    driver.feed(0, 0, PROMPT)
    if not driver.backend.can_truncate:
        with pytest.raises(BackendError, match="cut"):
            driver.run(Plan(truncations=(Truncation(0, n),)))
        return
    driver.run(Plan(truncations=(Truncation(0, n),)))
    check_held(driver.backend, {0: n})
    assert driver.answer(0, n, MORE, 4) == wanted


def test_only_attention_is_cut_and_a_window_only_in_slots_of_its_own(driver: Driver) -> None:
    kinds = ("llama",) if driver.backend.is_unified else ("llama", "gemma3")
    assert driver.backend.can_truncate == (driver.model.architecture in kinds)


def test_what_left_the_window_is_lost_in_a_unified_kv_though_it_is_of_full_size(tiny_swa: Path) -> None:
    """A newcomer's cells are taken from another's, which goes on as if nothing had happened, and cannot be cut."""
    long = [3 + (11 + 37 * i) % 200 for i in range(180)]
    with Driver(tiny_swa, is_unified=True, n_cells=512) as driver:
        assert not driver.backend.can_truncate
        before = driver.row(3, 0, long[:41])
        whole = driver.row(3, 41, long[41:140])
        driver.clear(3)
        driver.feed(0, 0, long[100:110])
        driver.feed(1, 0, long[:100])
        driver.feed(1, 100, long[100:139])
        driver.clear(0)
        driver.feed(2, 0, long[50:90])  # ten cells that slot 0 had, then some that slot 1 does not see any more
        driver.copy(1, 0, 139)
        assert_close(driver.row(0, 139, long[139:140]), whole)
        assert_close(driver.row(1, 139, long[139:140]), whole)
        driver.clear(0)
        with pytest.raises(BackendError, match="cannot be cut"):
            driver.run(Plan(truncations=(Truncation(1, 40),)))
        # Why it is refused: what C would have said yes to.
        driver.backend._context.truncate(1, 40)
        with pytest.raises(AssertionError):
            assert_close(driver.row(1, 40, long[40:41]), before)


def test_a_saved_slot_continues_in_another(driver: Driver) -> None:
    wanted = driver.answer(3, 0, PROMPT + MORE, 6)
    driver.clear(3)
    driver.feed(0, 0, PROMPT)
    driver.feed(2, 0, PROMPT[7:])  # overwritten by the restore
    job = driver.begin()
    driver.save(job, 0)
    check_held(driver.backend, {0: 0})
    driver.feed(0, 0, MORE)
    driver.restore(job, 2)
    check_held(driver.backend, {2: len(PROMPT)})
    assert driver.answer(2, len(PROMPT), MORE, 6) == wanted


def test_a_slot_is_kept_only_where_its_bytes_may_be_taken(driver: Driver) -> None:
    driver.feed(0, 0, PROMPT)
    n = len(driver.backend.take_slot(0, len(PROMPT), 10**9))
    assert n > 0
    assert len(driver.backend.take_slot(0, len(PROMPT), n)) == n
    assert driver.backend.take_slot(0, len(PROMPT), n - 1) == b""


def test_what_was_kept_goes_on_and_is_cut_only_where_the_backend_says_so(driver: Driver) -> None:
    backend, n = driver.backend, 20
    whole = driver.row(3, 0, PROMPT + MORE)
    part = driver.row(2, 0, PROMPT[:n] + MORE)
    driver.clear(2, 3)
    driver.feed(0, 0, PROMPT)
    kept = backend.take_slot(0, len(PROMPT), 10**9)
    driver.clear(0)
    for slot in (1, 2):
        backend.put_slot(slot, kept)
        check_held(backend, {slot: len(PROMPT)})
    assert_close(driver.row(1, len(PROMPT), MORE), whole)
    if backend.can_cut_kept:
        driver.run(Plan(truncations=(Truncation(2, n),)))
        assert_close(driver.row(2, n, MORE), part)
    assert backend.can_cut_kept == (driver.model.architecture == "llama")


def test_a_shared_prefix_survives_a_save(driver: Driver) -> None:
    """In unified KV two slots share cells; saving one must not take the other's."""
    wanted = driver.answer(3, 0, PROMPT + MORE, 4)
    driver.clear(3)
    driver.feed(0, 0, PROMPT)
    job = driver.begin()
    driver.copy(0, 1, len(PROMPT), Span(job, 3, 0, array("i", MORE), 1))
    driver.save(job, 0)
    assert driver.answer(1, len(PROMPT), MORE, 4) == wanted
    driver.restore(job, 2)
    assert driver.answer(2, len(PROMPT), MORE, 4) == wanted


def test_saves_restores_copies_and_cuts_in_one_plan(driver: Driver) -> None:
    wanted = driver.answer(3, 0, PROMPT + MORE, 4)
    driver.clear(3)
    saved = driver.begin()
    driver.feed(0, 0, PROMPT)
    driver.save(saved, 0)
    driver.feed(1, 0, PROMPT)
    job = driver.begin()
    driver.run(
        Plan(
            restores=(Restore(saved, 0),),
            copies=(Copy(1, 2, len(PROMPT)),),
            truncations=(Truncation(3, 0),),
            spans=(Span(job, 3, 0, array("i", PROMPT), 1),),
        )
    )
    for slot in range(4):
        assert driver.answer(slot, len(PROMPT), MORE, 4) == wanted


def test_a_save_is_dropped_with_its_job(driver: Driver) -> None:
    job = driver.begin()
    driver.feed(0, 0, PROMPT)
    driver.save(job, 0)
    driver.run(Plan(ends=(job,)))
    with pytest.raises(BackendError, match="nothing is saved"):
        driver.restore(job, 0)


def test_a_small_sliding_window_is_not_cut(tiny_swa: Path) -> None:
    """llama.cpp says yes to the cut and is silently wrong after it."""
    with Driver(tiny_swa, swa_full=False) as driver:
        assert not driver.backend.can_truncate
        wanted = driver.answer(3, 0, PROMPT + MORE, 4)
        driver.feed(0, 0, PROMPT)
        driver.copy(0, 1, len(PROMPT))
        assert driver.answer(1, len(PROMPT), MORE, 4) == wanted


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_that_was_warmed_up_as_on_a_gpu_is_as_any_other(
    architecture: str, model_of: Callable[[Path], Model], request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(f"tiny_{architecture}")
    model = model_of(path)
    with Driver(path, model=model) as plain:
        wanted, can_truncate = plain.row(0, 0, PROMPT), plain.backend.can_truncate
    model.is_on_device = True
    try:
        with Driver(path, model=model) as warmed:
            backend = warmed.backend
            assert backend.n_splits == 1, "one device, as the log tells"
            assert int(backend._context.batch.output.sum()) == backend.n_rows > 1, "as many as a step may ask for"
            check_held(backend, dict.fromkeys(range(4), 0))
            assert backend.can_truncate == can_truncate
            assert_close(warmed.row(0, 0, PROMPT), wanted)
    finally:
        model.is_on_device = False
