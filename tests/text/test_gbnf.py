"""GBNF is read as llama.cpp reads it, and what is wrong with a grammar is told by line and column."""

from __future__ import annotations

import pytest

from llamahost.core.errors import InvalidRequest
from llamahost.text.gbnf import read
from llamahost.text.grammar_tree import ANY, Chars, Choice, Ref, Repeat, Sequence, TokenRef, merged, negated


def root(text: str) -> object:
    return read(text, "it").rules["root"]


def one(character: str) -> Chars:
    return Chars(((ord(character), ord(character)),))


def test_every_escape_is_one_character() -> None:
    codes = [10, 13, 9, 92, 34, 91, 93, 45, 0x41, 0xE9, 0x1F600]
    literal = r'root ::= "\n\r\t\\\"\[\]\-\x41\u00e9\U0001F600"'
    assert root(literal) == Sequence(tuple(Chars(((code, code),)) for code in codes))


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("[a-c]", ((97, 99),)),
        ("[-a]", ((45, 45), (97, 97))),
        ("[a-]", ((45, 45), (97, 97))),
        (r"[\-\]\[]", ((45, 45), (91, 91), (93, 93))),
        ("[c-ea-d]", ((97, 101),)),
        (r"[\u0000-\U0010FFFF]", ((0, 0xD7FF), (0xE000, 0x10FFFF))),
        ("[^\\u0000-y{-\\U0010FFFF]", ((122, 122),)),
        ("[^]", None),
        ("[é-ü]", ((0xE9, 0xFC),)),
    ],
)
def test_a_class_is_its_characters(text: str, ranges: tuple[tuple[int, int], ...] | None) -> None:
    if ranges is None:
        with pytest.raises(InvalidRequest, match="empty"):
            root(f"root ::= {text}")
        return
    assert root(f"root ::= {text}") == Chars(ranges)


def test_all_but_all_is_none_and_any_is_all() -> None:
    assert negated(ANY.ranges) == ()
    assert root("root ::= .") == ANY
    assert merged([(5, 6), (1, 3), (4, 4)]) == ((1, 6),)


def test_repetitions_bind_to_the_whole_of_what_is_before_them() -> None:
    ab = Sequence((one("a"), one("b")))
    assert root('root ::= "ab"* "ab"+ "ab"? "ab"{2} "ab"{2,} "ab"{2,3}') == Sequence(
        (
            Repeat(ab, 0, None), Repeat(ab, 1, None), Repeat(ab, 0, 1), Repeat(ab, 2, 2), Repeat(ab, 2, None),
            Repeat(ab, 2, 3),
        )
    )  # fmt: skip
    assert root('root ::= ("a" "b")*') == Repeat(Sequence((ab,)), 0, None)


def test_names_lines_and_comments_are_free() -> None:
    text = """
    # a comment
    root ::= 1-st # the first
    1-st ::=
       "a" | # in the middle
       ( "b"   # in a group
         |
         start )
    start ::= "c"\r
    """
    rules = read(text, "it").rules
    assert list(rules) == ["root", "1-st", "start"]
    group = rules["1-st"]
    assert isinstance(group, Choice)
    assert group.options[0] == one("a")
    options = group.options[1]
    assert isinstance(options, Choice)
    assert options.options[0] == one("b")
    assert isinstance(options.options[1], Ref)


def test_tokens_are_named_or_numbered() -> None:
    assert root("root ::= <[12]> !<[13]> <tool_call>") == Sequence(
        (TokenRef("<[12]>"), TokenRef("<[^13]>"), TokenRef("<tool_call>"))
    )


def test_rules_that_are_not_reached_are_left_out() -> None:
    assert list(read('root ::= a\nb ::= "b" b\na ::= "a"', "it").rules) == ["root", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with the rule `root`"),
        ('a ::= "a"', "begins with the rule `root`"),
        ("root ::= a", "line 1, column 10: the rule `a` is not defined"),
        ('root ::= "a" |\n  nowhere', "line 2, column 3: the rule `nowhere` is not defined"),
        ('root ::= root "a" | "b"', "line 1, column 1: the rule `root` is left-recursive"),
        ('root ::= "x" a\na ::= b\nb ::= "y"? a', "left-recursive"),
        ('root ::= (root)? "a"', "left-recursive"),
        ('root ::= "a', "line 1, column 10: the string has no end"),
        ("root ::= [a", "line 1, column 10: the class has no end"),
        ("root ::= [b-a]", "line 1, column 11: the range ends before it begins"),
        ('root ::= ("a"', "line 1, column 10: the group has no end"),
        ('root ::= "a")', "line 1, column 13: `)` cannot stand here"),
        ('root ::= "\\q"', "line 1, column 11: the escape `\\q` is not known"),
        ('root ::= "\\x4"', "2 hexadecimal digits"),
        ('root ::= "\\uD800"', "is no character"),
        ('root ::= "\\U00110000"', "is no character"),
        ("root ::= * ", "line 1, column 10: `*` must follow"),
        ('root ::= "a"{x}', "line 1, column 14: a number must stand here"),
        ('root ::= "a"{3,2}', "ends before it begins"),
        ('root ::= "a"{1 2}', "{m}, {m,} or {m,n}"),
        ('root ::= "a"{2001}', "at most 2000"),
        ('root = "a"', "line 1, column 6: `::=` must follow the name `root`"),
        ('::= "a"', "the name of a rule must stand here"),
        ("root ::= <a", "a token is written"),
        ("root ::= !<a>", "!<[id]>"),
        ("root ::= " + "(" * 60 + '"a"' + ")" * 60, "nested more than 50 deep"),
        ('root ::= "b"****  "a"' + "?" * 5, "line 1, column 26: more than 4 repetitions of one element"),
        ("\n".join(["root ::= r0", *(f'r{k} ::= "a"' for k in range(2001))]), "more than 2000 rules"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(text, "it")
    assert message in str(caught.value)
    assert caught.value.param == "it"


def test_nothing_but_a_refusal_comes_of_anything() -> None:
    signs = 'ab-1"\\[]^()|*+?{},.<>!#:= \n\rux0'
    n_refused = 0
    for seed in range(3000):
        text = "root ::= " + "".join(signs[(seed * 31 + k * k * (seed % 7 + 3) + k) % len(signs)] for k in range(20))
        try:
            read(text, "it")
        except InvalidRequest:
            n_refused += 1
    assert 0 < n_refused <= 3000
