"""Laws of the choice of a replica."""

from hypothesis import given
from hypothesis import strategies as st

from llamahost.fleet.routing.policy import EVEN, GRAIN, NEAR, WORTH, Regard, ReplicaView, choose, excess

VIEWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 2), st.booleans()).map(lambda given: ReplicaView(*given)), max_size=6
)
REGARDS = st.lists(
    st.builds(Regard, st.sampled_from([0, WORTH - 1, WORTH, 5000]), st.sampled_from([0.0, 1.0, 50.0]), st.booleans()),
    min_size=6,
    max_size=6,
)


def view(n_in_flight: int, n_slots: int = 4) -> ReplicaView:
    return ReplicaView(n_in_flight, 100, n_slots=n_slots)


@given(VIEWS)
def test_it_is_ready_has_room_and_none_such_has_less_in_flight(views: list[ReplicaView]) -> None:
    able = [view.n_in_flight for view in views if view.is_ready and view.n_room > 0]
    index = choose(views)
    if index is None:
        assert able == []
        return
    assert views[index].is_ready
    assert views[index].n_room > 0
    assert views[index].n_in_flight == min(able)


@given(VIEWS, REGARDS)
def test_whatever_speaks_for_it_it_can_take_the_request_and_is_near_the_least(
    views: list[ReplicaView], regards: list[Regard]
) -> None:
    able = [view.n_in_flight for view in views if view.is_ready and view.n_room > 0]
    index = choose(views, regards[: len(views)])
    assert (index is None) == (not able)
    if index is not None:
        assert views[index].is_ready
        assert views[index].n_room > 0
        assert views[index].n_in_flight <= min(able) + NEAR


def test_of_equals_the_first() -> None:
    assert choose([ReplicaView(3, 1), ReplicaView(1, 1), ReplicaView(1, 1)]) == 1


def test_a_held_start_draws_a_request_as_far_as_the_load_is_near() -> None:
    held = [Regard(n_held=4000), Regard()]
    assert choose([view(NEAR), view(0)], held) == 0
    assert choose([view(NEAR + 1), view(0)], held) == 1
    assert choose([view(8, n_slots=32), view(0, n_slots=32)], held) == 0  # near is a quarter of the slots


def test_what_all_hold_draws_nobody() -> None:
    assert choose([view(1), view(0)], [Regard(n_held=9000 + WORTH - 1), Regard(n_held=9000)]) == 1
    assert choose([view(1), view(0)], [Regard(n_held=9000 + WORTH), Regard(n_held=9000)]) == 0


def test_what_it_would_push_out_counts_against_it_where_another_would_push_out_what_is_older() -> None:
    for n_lost, lost_at, wanted in ((400, 5, 0), (600, 5, 1), (600, 4, 0), (10**6, -1, 0)):
        held = [Regard(n_held=4000, n_lost=n_lost, lost_at=lost_at), Regard(lost_at=4)]
        assert choose([view(0), view(0)], held) == wanted, (n_lost, lost_at)


def test_a_session_goes_home_where_no_cache_speaks_and_else_to_the_cache() -> None:
    assert choose([view(0), view(1)], [Regard(), Regard(is_home=True)]) == 1
    assert choose([view(0), view(1)], [Regard(n_held=4000), Regard(is_home=True)]) == 0


def test_who_had_the_most_work_of_late_gets_no_more_for_its_cache_and_of_equal_loads_the_least_work_wins() -> None:
    limit = (EVEN * 100.0 + 2 * GRAIN) / (2 - EVEN)
    assert choose([view(0), view(0)], [Regard(n_held=4000, work=limit - 1), Regard(work=100.0)]) == 0
    assert choose([view(0), view(0)], [Regard(n_held=4000, work=limit + 1), Regard(work=100.0)]) == 1
    assert choose([view(0), view(0)], [Regard(work=2.0), Regard(work=1.0)]) == 1


@given(VIEWS)
def test_who_waits_leaves_until_nobody_waits_who_would_find_fewer_elsewhere(views: list[ReplicaView]) -> None:
    views = [view._replace(n_in_flight=5 * view.n_in_flight, n_slots=4) for view in views]
    leave = excess(views)
    able = [(view.n_in_flight, n) for view, n in zip(views, leave, strict=True) if view.is_ready]
    assert sum(leave) == sum(n for _, n in able)
    for n_in_flight, n in able:
        assert n <= max(0, n_in_flight - 4), "who has a slot stays"
        if n:
            assert n_in_flight > min(n for n, _ in able) + NEAR
    if able:
        loads = [n_in_flight - n for n_in_flight, n in able]
        for _ in range(sum(leave)):
            loads[loads.index(min(loads))] += 1
        most = [load for load in loads if load > 4]
        assert not most or max(most) <= min(loads) + NEAR
