"""Laws of stop strings: against a reading of the whole text, for any way to cut it."""

from hypothesis import given
from hypothesis import strategies as st

from llamahost.text.stops import StopStrings

STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), min_size=1, max_size=4).map(tuple)
TEXTS = st.lists(st.text(alphabet="ab\nc", max_size=4), max_size=12)


def naive(stops: tuple[str, ...], text: str) -> tuple[str, str | None]:
    """The first prefix of the text that ends with a stop; of several the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(STOPS, TEXTS)
def test_any_cut_finds_what_a_reading_of_the_whole_finds(stops: tuple[str, ...], pieces: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        safe, stop = matcher.feed(piece)
        shown += safe
        if stop is not None:
            break
    else:
        stop = None
        shown += matcher.flush()
    assert (shown, stop) == naive(stops, "".join(pieces))


@given(STOPS, TEXTS)
def test_what_is_held_back_is_the_longest_beginning_of_a_stop(stops: tuple[str, ...], pieces: list[str]) -> None:
    matcher = StopStrings(stops)
    shown, came = "", ""
    for piece in pieces:
        safe, stop = matcher.feed(piece)
        shown, came = shown + safe, came + piece
        if stop is not None:
            return
        ends = [n for stop in stops for n in range(1, len(stop)) if came.endswith(stop[:n])]
        assert came[len(shown) :] == (came[len(came) - max(ends) :] if ends else "")


def test_the_stop_that_is_complete_first_wins_over_the_one_that_began_first() -> None:
    assert StopStrings(("abc", "b")).feed("xabc") == ("xa", "b")


def test_of_two_complete_at_once_the_longer_wins() -> None:
    assert StopStrings(("b", "ab")).feed("xab") == ("x", "ab")


def test_a_false_start_is_shown_once_it_is_known_to_be_one() -> None:
    matcher = StopStrings(("</s>",))
    assert matcher.feed("a</") == ("a", None)
    assert matcher.feed("p>") == ("</p>", None)
    assert matcher.flush() == ""


def test_many_long_stops_cost_linear_time() -> None:
    matcher = StopStrings(tuple("a" * 1000 + chr(0x100 + k) for k in range(64)))
    shown = sum(len(matcher.feed("aaaa")[0]) for _ in range(500))
    assert shown == 1000
    assert len(matcher.flush()) == 1000
