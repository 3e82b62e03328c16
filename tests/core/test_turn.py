import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llamahost.core.turn import apart, in_turn


def test_long_work_goes_one_at_a_time() -> None:
    n_inside = n_most = 0

    def work() -> None:
        nonlocal n_inside, n_most
        n_inside += 1
        n_most = max(n_most, n_inside)
        for _ in range(20):
            os.stat(__file__)  # noqa: PTH116  which lets go of the GIL, so that others run meanwhile
        n_inside -= 1

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(in_turn, work) for _ in range(100)]:
            done.result(30)
    assert n_most == 1


def test_what_goes_apart_lets_others_have_the_turn_and_takes_it_back() -> None:
    came = threading.Event()

    def first() -> bool:
        with apart():
            was_let = came.wait(30)
            with apart():  # within each other they are one
                pass
        return was_let

    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(in_turn, first)
        pool.submit(in_turn, came.set).result(30)
        assert waits.result(30)
        assert pool.submit(in_turn, lambda: True).result(30), "the turn was given back once too often, or not at all"


def test_a_failure_gives_the_turn_back() -> None:
    def fail() -> None:
        with apart():
            raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            in_turn(fail)
    assert in_turn(lambda: True)


def test_who_has_no_turn_gives_none_up() -> None:
    with apart():
        assert in_turn(lambda: True)
    assert in_turn(lambda: True)
