"""When thoughts must close: a limit, and pieces of tokens one after the other."""

from __future__ import annotations

import pytest

from llamahost.core.work import ThoughtLimit
from llamahost.native.thoughts import Thoughts

CLOSING = (901, 902)


def closed_after(pieces: list[bytes], *, n_max: int, is_open: bool = True, recurs: bool = False) -> list[int]:
    """After how many of these pieces thoughts had to close; each time the closing mark then comes."""
    limit = ThoughtLimit(n_max=n_max, open="<think>", close="</think>", closing=CLOSING, is_open=is_open, recurs=recurs)
    thoughts = Thoughts(limit, (*pieces, b"</think>"))
    closed = []
    for n in range(len(pieces) + 1):
        if thoughts.closing():
            closed.append(n)
            thoughts.take(len(pieces))
        if n < len(pieces):
            thoughts.take(n)
    return closed


@pytest.mark.parametrize(
    ("pieces", "options", "closed"),
    [
        ([b"a"] * 9, {"n_max": 4}, [4]),
        ([b"a"] * 9, {"n_max": 0}, [0]),
        ([b"a"] * 3, {"n_max": 4}, []),
        ([b"a", b"</thi", b"nk>", *[b"b"] * 9], {"n_max": 4}, []),  # it closed by itself
        ([b"a", b"</thi", b"ng>", *[b"b"] * 9], {"n_max": 4}, [4]),
        ([b"a"] * 9, {"n_max": 4, "is_open": False}, []),  # it never thought
        ([b"\n", b"<thi", b"nk>", *[b"a"] * 9], {"n_max": 4, "is_open": False}, [7]),
        ([b"so <think>", *[b"a"] * 9], {"n_max": 4, "is_open": False}, []),  # no beginning: that is text
        ([b"so ", b"<think>", *[b"a"] * 9], {"n_max": 4, "is_open": False}, []),
        ([b"so ", b"<think>", *[b"a"] * 9], {"n_max": 4, "is_open": False, "recurs": True}, [6]),
        ([b"a", b"</think>", b"b", b"<think>", *[b"c"] * 9], {"n_max": 4, "recurs": True}, [6]),  # two tokens, two more
        ([b"a", b"</think>x<think>", *[b"c"] * 9], {"n_max": 4, "recurs": True}, [4]),
        ([b"a", "\u00e4".encode()[:1], "\u00e4".encode()[1:], b"a"], {"n_max": 2}, [3]),  # not within a character
        ([b"\xf0", b"\xf0", b"\xf0", b"\xf0", b"\xf0", b"\xf0"], {"n_max": 2}, [5]),  # nor for ever
        ([b"a", b"\x80", b"\x80", b"\x80"], {"n_max": 2}, [2]),
    ],
)
def test_thoughts_close_when_their_limit_is_reached(
    pieces: list[bytes], options: dict[str, int], closed: list[int]
) -> None:
    assert closed_after(pieces, **options) == closed  # type: ignore[arg-type] # flags among numbers


def test_with_nothing_left_no_thought_opens() -> None:
    limit = ThoughtLimit(n_max=0, open="<think>", close="</think>", closing=CLOSING)
    thoughts = Thoughts(limit, (b"<think>", b"<thi", b"nk>", b"nd>"))
    assert not thoughts.stands(0)
    assert thoughts.stands(1)
    thoughts.take(1)
    assert not thoughts.stands(2)
    assert thoughts.stands(3)
    thoughts.take(3)
    assert thoughts.stands(0)  # behind words it opens nothing
