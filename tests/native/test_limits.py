"""What would end the process, or be silently wrong, is refused in Python first; what C refuses is translated."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from llamahost.core.errors import BackendError, BackendLost, InvalidRequest, LoadFailed, NoRoom
from llamahost.core.work import Copy, Plan, Restore, Save, Span, Streams, Truncation
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions
from llamahost.native.embed import EmbedOptions, LlamaEmbedder
from llamahost.native.model import Model
from tests.native.driver import Driver, check_held


@pytest.fixture
def driver(tiny_llama: Path) -> Iterator[Driver]:
    with Driver(tiny_llama, n_ctx=64, n_slots=2, n_batch=32, n_rows=4) as driver:
        yield driver


def test_a_context_ends_where_the_table_of_positions_does(shared_models: Path) -> None:
    with Model.open(shared_models / "tinytalk-3M-chat-q8_0.gguf") as model:
        for n_ctx, is_unified in ((257, False), (1024, True)):
            with pytest.raises(LoadFailed, match="256 positions"):
                LlamaBackend(model, ContextOptions(n_ctx=n_ctx, is_unified=is_unified))
        with pytest.raises(LoadFailed, match="256 positions"):
            LlamaEmbedder(model, EmbedOptions(n_ctx=257))
        LlamaBackend(model, ContextOptions(n_ctx=256, n_slots=4, is_unified=True)).close()


def span(slot: int, n: int, *, start: int = 0, n_rows: int = 0, token: int = 20) -> Span:
    return Span(1, slot, start, array("i", [token] * n), n_rows)


def columns(*slots: int, start: int = 0, n_more: int = 0) -> Streams:
    n = len(slots)
    return Streams([1] * n, array("i", slots), array("i", [start] * n), n_more, [20] * n)


@pytest.mark.parametrize(
    "spans",
    [
        (span(0, 20), span(1, 20)),
        (span(0, 33),),
        (span(2, 1),),
        (span(-1, 1),),
        (span(1, 1), span(0, 1)),
        (span(0, 1), span(0, 1)),
        (span(0, 0),),
        (span(0, 2, n_rows=3),),
        (span(0, 2, n_rows=-1),),
        (span(0, 5, n_rows=5),),
        (span(0, 4, start=61),),
        (span(0, 4, start=-1),),
        columns(0, 2),
        columns(-1, 0),
        columns(1, 0),
        columns(0, 0),
        columns(0, 1, start=60, n_more=4),
        columns(0, start=-5, n_more=4),
    ],
    ids=[
        "more than n_batch",
        "one span more than n_batch",
        "slot beyond the last",
        "slot below 0",
        "slots descending",
        "a slot twice",
        "no tokens",
        "more rows than tokens",
        "negative rows",
        "more rows than the context has",
        "beyond n_ctx",
        "negative position",
        "columns: slot beyond the last",
        "columns: slot below 0",
        "columns: slots descending",
        "columns: a slot twice",
        "columns: beyond n_ctx",
        "columns: negative position",
    ],
)
def test_an_impossible_span_is_refused(driver: Driver, spans: Sequence[Span]) -> None:
    driver.begin()
    with pytest.raises(BackendError):
        driver.backend.launch(Plan(spans=spans))
    assert driver.feed(0, 0, [20, 21]) >= 0  # and the backend lives


@pytest.mark.parametrize("token", [-1, 512, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_refused(driver: Driver, token: int) -> None:
    driver.begin()
    with pytest.raises(BackendError):
        driver.backend.launch(Plan(spans=(span(0, 1, token=token),)))
    with pytest.raises(InvalidRequest, match="not in the vocabulary"):
        driver.model.vocab.decode(array("i", [20, token]))


def test_a_gap_in_positions_is_refused(driver: Driver) -> None:
    driver.begin()
    driver.run(Plan(spans=(span(0, 4),)))
    with pytest.raises(BackendError):
        driver.backend.launch(Plan(spans=(span(0, 4, start=9),)))
    check_held(driver.backend, {0: 4})


@pytest.mark.parametrize("is_unified", [False, True])
@pytest.mark.parametrize("slot", [-1, 2, 256, 1000])
def test_a_slot_that_does_not_exist_is_refused_everywhere(tiny_llama: Path, slot: int, is_unified: bool) -> None:
    with Driver(tiny_llama, n_ctx=64, n_slots=2, n_batch=32, is_unified=is_unified) as driver:
        for plan in (
            Plan(copies=(Copy(0, slot, 1),)),
            Plan(copies=(Copy(slot, 0, 1),)),
            Plan(truncations=(Truncation(slot, 0),)),
            Plan(saves=(Save(1, slot),)),
            Plan(restores=(Restore(1, slot),)),
        ):
            with pytest.raises(BackendError, match="is not one of"):
                driver.backend.launch(plan)


def test_a_slot_is_not_copied_to_itself(driver: Driver) -> None:
    with pytest.raises(BackendError):
        driver.backend.launch(Plan(copies=(Copy(1, 1, 1),)))


def test_rows_of_a_job_that_never_began_are_refused(driver: Driver) -> None:
    driver.backend.launch(Plan(spans=(Span(77, 0, 0, array("i", [20]), 1),)))
    with pytest.raises(BackendError, match="never began"):
        driver.backend.collect()


def test_a_span_without_rows_samples_nothing(driver: Driver) -> None:
    assert driver.run(Plan(spans=(span(0, 4),))) == []
    check_held(driver.backend, {0: 4})


def test_collect_wants_a_launch(driver: Driver) -> None:
    with pytest.raises(BackendError, match="without"):
        driver.backend.collect()


def test_no_room_leaves_everything_as_it_was(tiny_llama: Path) -> None:
    with Driver(tiny_llama, n_ctx=256, n_slots=2, n_cells=256, is_unified=True, n_batch=200) as driver:
        job = driver.begin()
        driver.run(Plan(spans=(Span(job, 0, 0, array("i", [20] * 190), 1),)))
        with pytest.raises(NoRoom):
            driver.backend.launch(Plan(spans=(Span(job, 1, 0, array("i", [20] * 100), 1),)))
        check_held(driver.backend, {0: 190, 1: 0})
        driver.run(Plan(spans=(Span(job, 1, 0, array("i", [20] * 50), 1),)))
        check_held(driver.backend, {0: 190, 1: 50})


def test_a_slot_copy_that_no_decode_performs_loses_the_context(driver: Driver) -> None:
    """Its data would arrive with a later decode, over whatever the slot holds by then."""
    driver.begin()
    driver.run(Plan(spans=(span(0, 30),)))
    driver.run(Plan(spans=(span(0, 20, start=30),)))  # so long that the slot is copied, and not its state
    with pytest.raises(BackendLost, match="pending"):
        driver.backend.launch(Plan(copies=(Copy(0, 1, 50),), spans=(span(0, 1, start=60),)))


def test_an_impossible_plan_does_nothing_at_all(driver: Driver) -> None:
    driver.begin()
    driver.run(Plan(spans=(span(0, 30),)))
    with pytest.raises(BackendError) as caught:
        driver.backend.launch(Plan(copies=(Copy(0, 1, 30),), truncations=(Truncation(0, 0),), spans=(span(9, 1),)))
    assert not isinstance(caught.value, BackendLost)
    check_held(driver.backend, {0: 30, 1: 0})


def test_a_damaged_state_is_refused_and_the_slot_is_clear(driver: Driver) -> None:
    job = driver.begin()
    driver.feed(0, 0, [20, 21, 22])
    driver.save(job, 0)
    driver.backend._saved[job][:] = bytes(len(driver.backend._saved[job]))
    with pytest.raises(BackendError):
        driver.restore(job, 1)
    check_held(driver.backend, {1: 0})
    assert driver.feed(1, 0, [20, 21]) >= 0


def test_closing_twice_is_harmless_and_closed_is_lost(tiny_llama: Path) -> None:
    with Driver(tiny_llama, n_ctx=64, n_slots=1, n_batch=32) as driver:
        driver.begin()
        driver.backend.close()
        driver.backend.close()
        with pytest.raises(BackendLost):
            driver.backend.launch(Plan())
        driver.model.close()
        driver.model.close()
        with pytest.raises(LoadFailed, match="closed"):
            _ = driver.model.pointer


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_slots": 0},
        {"n_slots": 257},
        {"n_ctx": 0},
        {"n_ctx": 2**31},
        {"n_batch": 0},
        {"n_slots": 8, "n_batch": 4},
        {"n_ubatch": 0},
        {"kv_type_k": "q3_k"},
        {"n_cells": 100},
        {"n_cells": 100, "is_unified": True},
    ],
    ids=str,
)
def test_an_impossible_context_is_refused_with_a_reason(wrong: dict[str, object]) -> None:
    with pytest.raises(LoadFailed):
        ContextOptions(**{"n_ctx": 256, **wrong})  # type: ignore[arg-type]  # the point of the test


def test_what_llama_refuses_says_why(tiny_llama: Path) -> None:
    from llamahost.native.backend import LlamaBackend
    from llamahost.native.model import Model

    with Model.open(tiny_llama) as model, pytest.raises(LoadFailed, match="V cache"):
        LlamaBackend(model, ContextOptions(n_ctx=64, kv_type_v="q8_0", flash_attention="off"))


def test_as_many_slots_as_there_can_be(tiny_llama: Path) -> None:
    with Driver(tiny_llama, n_ctx=256, n_slots=256, n_batch=256, is_unified=True, n_cells=1024) as driver:
        jobs = [driver.begin() for _ in range(256)]
        sampled = driver.run(Plan(spans=tuple(Span(job, i, 0, array("i", [20]), 1) for i, job in enumerate(jobs))))
        assert len({one.tokens for one in sampled}) == 1
        assert [one.job_id for one in sampled] == jobs
