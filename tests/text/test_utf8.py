"""Laws of the incremental decoder: it says what one decode of everything says, however the bytes are cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llamahost.text.utf8 import Utf8

# Bytes that make and break characters, far denser than uniform ones would.
TRICKY = st.lists(
    st.one_of(
        st.sampled_from([b"a", "é".encode(), "€".encode(), "😀".encode(), b"\xf0\x9f", b"\xe2\x82", b"\xc3"]),
        st.sampled_from([b"\x80", b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\x00"]),
        st.binary(max_size=3),
    )
).map(b"".join)


@given(TRICKY, st.lists(st.integers(0, 60)))
def test_any_cut_says_what_one_decode_says(data: bytes, cuts: list[int]) -> None:
    decoder = Utf8()
    edges = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    texts = [decoder.feed(data[a:b]) for a, b in pairwise(edges)]
    assert "".join(texts) + decoder.flush() == data.decode("utf-8", "replace")


@given(TRICKY)
def test_each_piece_of_text_is_whole_and_at_most_three_bytes_wait(data: bytes) -> None:
    decoder = Utf8()
    for byte in data:
        decoder.feed(bytes([byte])).encode()  # a half character would be a surrogate, which cannot be encoded
        assert len(decoder.pending) <= 3


def test_a_character_comes_with_its_last_byte() -> None:
    decoder = Utf8()
    assert [decoder.feed(bytes([byte])) for byte in "€".encode()] == ["", "", "€"]


def test_an_end_within_a_character_is_one_replacement() -> None:
    decoder = Utf8()
    assert decoder.feed(b"\xe2\x82") == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""
