"""What was tokenised once is not tokenised again, within bounds, and never with other tokens than the whole has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamahost.core.work import Tokens
from llamahost.text.remembered import Remembered, parts_of
from tests.text.vocabulary import BOS, EOS, TURN, ByteVocabulary

CUTS = {"<|turn|>": TURN, "</s>": EOS}


class Counting(ByteVocabulary):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        self.asked.append(text)
        return super().encode(text, add_special=add_special, parse_special=parse_special)


def remembering(max_bytes: int = 10**6, n_whole: int = 0) -> tuple[Remembered, Counting]:
    vocabulary = Counting()
    remembered = Remembered(vocabulary, CUTS, max_bytes=max_bytes, n_whole=n_whole)
    vocabulary.asked.clear()
    return remembered, vocabulary


def encode(remembered: Remembered, text: str) -> list[int]:
    return remembered.encode(text, add_special=True, parse_special=True).tolist()


def test_of_a_conversation_that_grows_only_the_new_turn_is_tokenised() -> None:
    remembered, vocabulary = remembering()
    history = "<|turn|>one</s><|turn|>two</s>"
    encode(remembered, history)
    assert vocabulary.asked == [history]  # in one call
    vocabulary.asked.clear()
    assert encode(remembered, history + "<|turn|>three</s>") == [
        BOS,
        *ByteVocabulary().encode(history + "<|turn|>three</s>", add_special=False, parse_special=True),
    ]
    assert vocabulary.asked == ["<|turn|>three"]
    assert remembered.heard.n_asked == 2 * len(history) + len("<|turn|>three</s>")
    assert remembered.heard.n_tokenised == len(history) + len("<|turn|>three")


def test_what_was_not_asked_for_the_longest_is_forgotten_first() -> None:
    one, two, three = ("<|turn|>" + letter * 1000 for letter in "abc")
    remembered, vocabulary = remembering(max_bytes=11_000)  # 1,000 tokens, 1,000 characters and some: two of them
    for part in (one, two, one, three, one, two):
        encode(remembered, part)
    assert vocabulary.asked == [one, two, three, two]


def test_what_is_larger_than_all_room_is_tokenised_each_time() -> None:
    remembered, vocabulary = remembering(max_bytes=100)
    for _ in range(2):
        assert len(encode(remembered, "<|turn|>abc")) == 5
    assert len(vocabulary.asked) == 2


def test_short_texts_and_plain_ones_go_past_the_memory() -> None:
    remembered, vocabulary = remembering(n_whole=20)
    encode(remembered, "<|turn|>a")
    remembered.encode("<|turn|>" * 9, add_special=True, parse_special=False)
    assert remembered.heard.n_asked == 0
    assert len(vocabulary.asked) == 2


def test_a_part_that_makes_a_cuts_token_of_its_text_spoils_nothing() -> None:
    class Odd(ByteVocabulary):
        def encode(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
            tokens = super().encode(text, add_special=add_special, parse_special=parse_special)
            for k, token in enumerate(tokens):
                if token == ord("!"):
                    tokens[k] = TURN
            return tokens

    odd = Odd()
    remembered = Remembered(odd, CUTS, n_whole=0)
    for text in ("<|turn|>a!b<|turn|>c", "a!<|turn|>", "</s>!<|turn|>x</s>!"):
        whole = odd.encode(text, add_special=False, parse_special=True)
        for _ in range(2):
            assert remembered.encode(text, add_special=False, parse_special=True) == whole


@given(pieces=st.lists(st.sampled_from(["<|turn|>", "</s>", "<", "a", "|turn|>", ""]), max_size=12))
def test_parts_are_the_text_and_all_but_the_first_begin_with_a_cut(pieces: list[str]) -> None:
    text = "".join(pieces)
    first, *others = parts_of(text, CUTS)
    assert "".join([first, *others]) == text
    assert all(part.startswith(tuple(CUTS)) for part in others)
    assert all(part.find(cut, 1) < 0 for part in (first, *others) for cut in CUTS)
