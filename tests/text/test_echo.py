"""Where each token of a prompt begins in what is told of it."""

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.text.echo import scored_echo
from tests.text.vocabulary import BOS, EOS, TURN, ByteVocabulary

VOCABULARY = ByteVocabulary()


def offsets_of(tokens: list[int], text: str | None = None) -> tuple[str, list[int]]:
    echo = scored_echo(VOCABULARY, array("i", tokens), text, is_shown=True)
    assert echo.tokens.tolist() == tokens
    return echo.text, echo.offsets.tolist()


@pytest.mark.parametrize(
    ("tokens", "text", "told"),
    [
        ([BOS, *b"s>"], "s>", ("s>", [0, 0, 1])),  # the beginning ends as the text does
        ([BOS, 97, TURN, 98], "a<|turn|>b", ("a<|turn|>b", [0, 0, 1, 9])),
        ([*b"ab", EOS], "ab", ("ab", [0, 1, 2])),
        ([*b" ab"], "ab", ("ab", [0, 0, 1])),  # a space that the tokeniser put there
        ([*b"ab"], "AB", ("AB", [0, 1])),
        ([*b"abc"], "A", ("A", [0, 1, 1])),
        ([BOS], "", ("", [0])),
        ([BOS, 97, TURN, 98], None, ("ab", [0, 0, 1, 1])),
        ([*"é!".encode()], None, ("é!", [0, 0, 1])),
        ([97, 0xC3], None, ("a\ufffd", [0, 1])),
    ],
)
def test_each_token_begins_where_its_text_does(
    tokens: list[int], text: str | None, told: tuple[str, list[int]]
) -> None:
    assert offsets_of(tokens, text) == told


def test_what_is_not_shown_has_its_offsets_all_the_same() -> None:
    echo = scored_echo(VOCABULARY, array("i", [97, 98]), "ab", is_shown=False)
    assert (echo.text, echo.offsets.tolist()) == ("", [0, 1])


@given(tokens=st.lists(st.integers(0, VOCABULARY.n_tokens - 1), min_size=1))
def test_slices_between_the_offsets_are_what_the_tokens_decode_to(tokens: list[int]) -> None:
    text, offsets = offsets_of(tokens)
    assert text == VOCABULARY.decode(tokens).decode("utf-8", "replace")
    assert "".join(text[a:b] for a, b in pairwise([*offsets, len(text)])) == text


@given(text=st.text())
def test_slices_between_the_offsets_are_the_text_that_was_given(text: str) -> None:
    given_back, offsets = offsets_of(
        VOCABULARY.encode(text, add_special=True, parse_special=True).tolist() or [BOS], text
    )
    assert given_back == text
    assert "".join(text[a:b] for a, b in pairwise([*offsets, len(text)])) == text
