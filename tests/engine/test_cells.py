"""Cells of a unified KV are counted exactly, however they are shared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamahost.engine.cells import Cells

N_SLOTS = 4
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["extend", "truncate", "copy"]),
        st.integers(0, N_SLOTS - 1),
        st.integers(0, N_SLOTS - 1),
        st.integers(0, 12),
    ),
    max_size=60,
)


def test_a_copy_costs_nothing_and_its_continuation_its_own() -> None:
    cells = Cells(2)
    cells.extend(0, 100)
    cells.copy(0, 1, 60)
    assert cells.used == 100
    cells.extend(1, 5)
    assert cells.used == 105


def test_cells_are_free_when_nobody_holds_them() -> None:
    cells = Cells(2)
    cells.extend(0, 100)
    cells.copy(0, 1, 60)
    assert cells.truncate(0, 0) == 40
    assert cells.truncate(1, 0) == 60
    assert cells.used == 0


def test_used_by_counts_what_is_shared_once() -> None:
    cells = Cells(3)
    cells.extend(0, 100)
    cells.copy(0, 1, 60)
    cells.extend(1, 10)
    assert cells.used_by([1]) == 70
    assert cells.used_by([0, 1]) == 110
    assert cells.used_by([1], source=0, n=80) == 90
    assert cells.used_by([2]) == 0


@given(operations=OPERATIONS)
def test_the_count_is_that_of_distinct_cells(operations: list[tuple[str, int, int, int]]) -> None:
    cells = Cells(N_SLOTS)
    slots: list[list[object]] = [[] for _ in range(N_SLOTS)]
    for name, slot, other, n in operations:
        before = len({id(cell) for held in slots for cell in held})
        if name == "extend":
            cells.extend(slot, n)
            slots[slot] = slots[slot] + [object() for _ in range(n)]
        elif name == "truncate":
            freed = cells.truncate(slot, n)
            slots[slot] = slots[slot][:n]
            assert freed == before - len({id(cell) for held in slots for cell in held})
        elif slot != other:
            cells.copy(slot, other, n)
            slots[other] = slots[slot][:n]
        cells.check_integrity()
        assert cells.used == len({id(cell) for held in slots for cell in held})
        assert [cells.length(index) for index in range(N_SLOTS)] == [len(held) for held in slots]
        some = slots[: N_SLOTS // 2]
        assert cells.used_by(range(N_SLOTS // 2), source=other, n=n) == len(
            {id(cell) for held in (*some, slots[other][:n]) for cell in held}
        )
