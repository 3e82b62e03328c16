"""Laws of the choice of a replica."""

from hypothesis import given
from hypothesis import strategies as st

from llamahost.fleet.policy import ReplicaView, choose

VIEWS = st.lists(st.builds(ReplicaView, st.integers(0, 5), st.integers(0, 2), st.booleans()), max_size=6)


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


def test_of_equals_the_first() -> None:
    assert choose([ReplicaView(3, 1), ReplicaView(1, 1), ReplicaView(1, 1)]) == 1
