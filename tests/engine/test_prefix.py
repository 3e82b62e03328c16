"""A hit is right, and as long as it can be."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from llamahost.core.work import NO_ADAPTERS, Job, Times
from llamahost.engine.prefix import Promise, best_promise, common_prefix, reusable
from llamahost.engine.sequence import Sequence, Slot
from llamahost.engine.slots import Slots
from tests.engine.driving import POET

TOKENS = st.lists(st.integers(0, 2), max_size=40).map(lambda tokens: array("i", tokens))


def running(tokens: list[int], n_computed: int, slot: int = 0) -> Sequence:
    job = Job(id=slot, tokens=array("i", tokens), n_max=1)
    return Sequence(job, slot, job.tokens[:], Times(), slot=slot, n_computed=n_computed)


@given(a=TOKENS, b=TOKENS, limit=st.integers(-1, 50))
def test_common_prefix_is_what_walking_finds(a: array[int], b: array[int], limit: int) -> None:
    n = 0
    while n < min(len(a), len(b), limit) and a[n] == b[n]:
        n += 1
    assert common_prefix(a, b, limit) == n


@given(head=TOKENS, a=TOKENS, b=TOKENS)
def test_common_prefix_of_texts_that_share_one(head: array[int], a: array[int], b: array[int]) -> None:
    assert common_prefix(head + a, head + b, 1000) >= len(head)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    slot = Slot(0, kept=array("i", range(10)))
    assert reusable(slot, array("i", range(10)), NO_ADAPTERS, can_truncate=True) == 9
    assert reusable(slot, array("i", range(10)), NO_ADAPTERS, can_truncate=False) == 0
    assert reusable(slot, array("i", range(11)), NO_ADAPTERS, can_truncate=False) == 10


def test_memory_that_cannot_be_cut_is_reused_whole_or_not_at_all() -> None:
    slot = Slot(0, kept=array("i", [1, 2, 3, 4]))
    other = array("i", [1, 2, 3, 5, 6])
    assert reusable(slot, other, NO_ADAPTERS, can_truncate=True) == 3
    assert reusable(slot, other, NO_ADAPTERS, can_truncate=False) == 0


def test_what_lacks_its_beginning_is_reused_from_its_end_on_or_not_at_all() -> None:
    slots = Slots(2, is_unified=False, can_truncate=True)
    first, second = slots.all
    slots.fill(first, array("i", [1, 2, 3, 4]), n_least=4)
    for tokens, n in (([1, 2, 3, 4, 5], 4), ([1, 2, 3, 4], 0), ([1, 2, 3, 5, 6], 0)):
        assert reusable(first, array("i", tokens), NO_ADAPTERS, can_truncate=True) == n
    longer = running([1, 2, 3, 4, 5, 6, 7], n_computed=0)
    slots.seat_copy(longer, second, first, 4)
    longer.n_computed = 6
    slots.release(longer)
    for tokens, n in (([1, 2, 3, 4, 5, 8], 5), ([1, 2, 3, 8, 9], 0)):
        assert reusable(second, array("i", tokens), NO_ADAPTERS, can_truncate=True) == n
    slots.truncate(second, 0)
    slots.seat(other := running([1, 2, 3, 8], n_computed=0), second, 0)
    other.n_computed = 3
    slots.release(other)
    assert reusable(second, array("i", [1, 2, 9]), NO_ADAPTERS, can_truncate=True) == 2, "which is whole again"
    slots.check_integrity()


def test_what_is_not_computed_yet_is_not_reused() -> None:
    slot = Slot(0, sequence=running(list(range(100)), n_computed=30))
    assert reusable(slot, array("i", range(100)), NO_ADAPTERS, can_truncate=True) == 30


def test_other_adapters_made_other_kv() -> None:
    slot = Slot(0, kept=array("i", range(10)), adapters=POET)
    assert reusable(slot, array("i", range(10)), NO_ADAPTERS, can_truncate=True) == 0
    assert reusable(slot, array("i", range(10)), ((1, 0.5),), can_truncate=True) == 0
    assert reusable(slot, array("i", range(10)), POET, can_truncate=True) == 9


def test_a_promise_is_the_longest_prefix_that_somebody_is_computing() -> None:
    tokens = array("i", range(100))
    near = running(list(range(40)) + [0] * 60, n_computed=10)
    far = running(list(range(80)) + [0] * 20, n_computed=0, slot=1)
    done = running(list(range(100)), n_computed=99, slot=2)
    promise = best_promise([near, far, done], tokens, NO_ADAPTERS, 64)
    assert promise is not None
    assert (promise.source, promise.n) == (far, 80)
    assert best_promise([near], tokens, NO_ADAPTERS, 64) is None
    assert best_promise([far], tokens, POET, 64) is None


def test_a_promise_is_open_until_it_is_kept_or_its_source_is_gone() -> None:
    def is_open(n_computed: int, slot: int) -> bool:
        return Promise(running(list(range(100)), n_computed, slot), 99).is_open

    assert is_open(0, 3)
    assert is_open(98, 3)
    assert not is_open(99, 3)
    assert not is_open(5, -1)
