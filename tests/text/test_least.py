"""Laws of the least set: nothing is in it without a reason, and each is looked at as often as there is news for it."""

from __future__ import annotations

from collections.abc import Set

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.text.gbnf import read
from llamahost.text.grammar_tree import nullable
from llamahost.text.lark import to_lark
from llamahost.text.least import least
from llamahost.text.schema import convert

NAMES = st.sampled_from("abcdef")


@given(st.dictionaries(NAMES, st.tuples(st.booleans(), st.frozensets(NAMES))))
def test_it_is_what_rounds_over_all_would_find(law: dict[str, tuple[bool, frozenset[str]]]) -> None:
    """Each asks for all of its needs, or for any."""

    def holds(name: str, found: Set[str]) -> bool:
        is_all, needs = law[name]
        return needs <= found if is_all else bool(needs & found)

    expected: set[str] = set()
    while more := {name for name in law if name not in expected and holds(name, expected)}:
        expected |= more
    assert least({name: needs for name, (_, needs) in law.items()}, holds) == expected


@pytest.mark.parametrize("is_backwards", [False, True])
def test_a_row_is_walked_once_in_either_direction(is_backwards: bool) -> None:
    n_asked = 0
    needs = {str(k): [str(k + 1)] for k in range(1000)} | {"1000": []}
    if is_backwards:
        needs = dict(reversed(needs.items()))

    def holds(name: str, found: Set[str]) -> bool:
        nonlocal n_asked
        n_asked += 1
        return set(needs[name]) <= found

    assert len(least(needs, holds)) == 1001
    assert n_asked <= 2 * 1001


def test_schemas_and_grammars_that_name_each_other_in_a_row_are_read_at_once() -> None:
    """In rounds over all of them this takes seconds; read one in another, they nest too deep."""
    definitions = {f"d{k}": {"$ref": f"#/$defs/d{k + 1}"} for k in range(2000)} | {"d2000": {"type": "null"}}
    assert len(convert({"$ref": "#/$defs/d0", "$defs": definitions}, "json_schema")["$defs"]) == 2001
    for end in ('"a"', '""'):
        rules = [f"r{k} ::= r{k + 1}" for k in range(1200)]
        text = "\n".join(["root ::= r0", *rules, f"r1200 ::= {end}"])
        assert to_lark(text, "grammar").startswith("start: R0")
        assert len(nullable(read(text, "grammar").rules)) == (0 if end == '"a"' else 1202)
