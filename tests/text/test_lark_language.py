"""A GBNF grammar and what it is written as derive the same texts: drawn from either, each is known to the other."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamahost.core.errors import InvalidRequest
from llamahost.text.gbnf import read
from llamahost.text.lark import to_lark
from llamahost.text.lexemes import units
from tests.archive import texts
from tests.text.recognised import Recogniser

llguidance = pytest.importorskip("llguidance")

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
GRAMMARS = {
    "json": JSON,
    "sums": "root ::= sum\nsum ::= one ([-+] one)*\n"
    'one ::= [a-c] [a-c0-2]* ws | [0-2]+ ws | "(" ws sum ")" ws\nws ::= " "*',
    "longest": 'root ::= x "b" | x "bc" root "d"\nx ::= "a" | "ab"',
    "words": 'root ::= "if" name | name | "(" root ")"\nname ::= [a-z]+',
    "blocks": 'root ::= ("if" ws cond block | "x" ws)+\nblock ::= "{" ws root "}" ws\ncond ::= "y"+ ws\nws ::= [ \\n]+',
    "overlap": 'root ::= "ab" root "c" | "abc" | "a" "b"? "d"',
}


def is_allowed(matcher: object, text: str) -> bool:
    copy = matcher.deep_copy()  # type: ignore[attr-defined] # it has no types
    data = list(text.encode())
    return bool(copy.try_consume_tokens(data) == len(data) and copy.is_accepting())


def check(grammar: str, seed: int, n: int) -> int:
    """How many texts that the grammar derives were among those that were tried."""
    known, draw = Recogniser(grammar), random.Random(seed)
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), to_lark(grammar, "grammar"))
    assert not matcher.is_error(), matcher.get_error()
    n_derived = 0
    for _ in range(n):
        text = known.derived(draw)[:60]
        for tried in (text, text + draw.choice("ab(){}1 ,"), text[:-1], text.replace("a", "b", 1)):
            is_derived = known.derives(tried)
            n_derived += is_derived
            assert is_allowed(matcher, tried) == is_derived, (tried, to_lark(grammar, "grammar"))
        # And on its way there each character is allowed that can go on, and no other.
        here = text[: draw.randint(0, len(text))]
        for character in draw.sample('ab(){}1 ,"cdfix\n0+', 6):
            copy, data = matcher.deep_copy(), list((here + character).encode())
            goes_on = copy.try_consume_tokens(data) == len(data)
            assert goes_on == known.begins(here + character), (here, character, to_lark(grammar, "grammar"))
    return n_derived


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_grammar_and_its_lark_derive_the_same(name: str) -> None:
    assert check(GRAMMARS[name], 1, 12) > 10


def test_json_is_read_in_words_not_in_characters() -> None:
    """Numbers and strings are a lexeme each, with the space behind them: a thirtieth of the time for each token."""
    lark = to_lark(JSON, "grammar")
    rules = [line for line in lark.splitlines() if line.startswith("r")]
    assert len(rules) == 4  # root, object, value, array
    assert not any("\\x{30}" in rule for rule in rules)


def test_as_deep_a_grammar_as_is_read_is_written() -> None:
    """Whoever walks it goes a call down for each level, beside those that serve the request."""
    for start in ('"(" root ")" | ', ""):
        assert to_lark(f'root ::= {start}{"(" * 50}"a" "b"{")****" * 50}', "grammar")


def test_a_grammar_of_many_choices_is_read_in_single_characters() -> None:
    """To look for its lexemes would take a minute, in which other threads wait for the GIL."""
    words = " | ".join(f'"{chr(0x4E00 + 2 * k)}"' for k in range(2000))
    rules = read(f'root ::= "(" root ")" | x\nx ::= {words}', "grammar").rules
    assert units(rules, {"x"}) == frozenset()


def rules(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(['"a"', '"ab"', '"b"', "[ab]", "[a-c]", '"("', "[0-1]", "x", "y", "z"])
    if not depth:
        return leaf
    part = rules(depth - 1)
    return st.one_of(
        leaf,
        st.tuples(part, part).map(" ".join),
        st.tuples(part, part).map(lambda two: f"({two[0]} | {two[1]})"),
        st.tuples(part, st.sampled_from("*+?")).map(lambda two: f"({two[0]}){two[1]}"),
    )


def any_grammar(depth: int) -> st.SearchStrategy[str]:
    """Rules that may call themselves, between brackets."""
    return st.tuples(*[rules(depth)] * 4).map(
        lambda four: f'root ::= {four[0]} | "(" root ")"\nx ::= {four[1]}\ny ::= {four[2]}\nz ::= {four[3]}'
    )


def same(grammar: str, n: int) -> None:
    try:
        check(grammar, 0, n)
    except InvalidRequest:
        return  # left-recursive, or without an end


@given(any_grammar(2))
@settings(max_examples=15, deadline=None)
def test_any_grammar_and_its_lark_derive_the_same(grammar: str) -> None:
    same(grammar, 3)


@pytest.mark.slow
@given(any_grammar(3))
@settings(max_examples=200, deadline=None)
def test_many_grammars_and_their_larks_derive_the_same(grammar: str) -> None:
    same(grammar, 6)


@pytest.mark.slow
def test_every_grammar_that_llama_cpp_ships_is_held_to_exactly() -> None:
    found = texts("grammars", ".gbnf")
    assert {"json", "c", "chess", "english", "japanese", "list", "arithmetic", "json_arr"} <= set(found)
    for name, grammar in sorted(found.items()):
        assert check(grammar, 2, 30) > 20, name
