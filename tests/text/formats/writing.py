"""Write the grammar of a family's calls, walk it at random, and ask what it allows."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache, lru_cache

from llguidance import LLMatcher, LLTokenizer

from llamahost.core.messages import Tool
from llamahost.core.work import Constraint
from llamahost.text.formats.format import Thinking
from llamahost.text.formats.grammar import Embed, Held, Rules, Writes, calls_constraint
from llamahost.text.formats.table import FAMILIES

TOOLS = (
    Tool(
        name="get_weather",
        parameters={
            "type": "object",
            "properties": {
                "city": {"enum": ["Sankt Pölten", "Paris"], "type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 3},
                "exact": {"type": "boolean"},
                "where": {"$ref": "#/$defs/place"},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {
                "place": {
                    "type": "object",
                    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
                    "required": ["n"],
                    "additionalProperties": False,
                }
            },
        },
    ),
    Tool(name="get", parameters={"type": "object", "properties": {}, "additionalProperties": False}),
)
THINKING = Thinking("<think>", "</think>")
WRITERS = {family.name: family for family in FAMILIES if isinstance(family, Writes)}


def embed(schema: object, param: str) -> str:
    assert isinstance(schema, dict)
    style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return f"%json {json.dumps({'x-guidance': style, **schema})}"


def constraint(
    family: Writes, held: Held, marks: dict[str, int], embed: Embed, *, is_loose: bool = False
) -> Constraint:
    return calls_constraint(family, held, Rules(marks, embed, is_loose=is_loose))


def held(tools: Sequence[Tool] = TOOLS, *, is_required: bool = True, n_calls: int | None = None) -> Held:
    return Held(tuple(tools), is_required, n_calls, is_thinking=False, thinking=None)


def rules() -> Rules:
    return Rules({}, embed)


@cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")


@lru_cache(maxsize=8)
def _compiled(grammar: str) -> LLMatcher:
    return LLMatcher(_bytes(), grammar)


def matcher_of(grammar: str) -> LLMatcher:
    """At its beginning. To compile takes most of a test's time, and many texts are asked about of one grammar."""
    return _compiled(grammar).deep_copy()


@lru_cache(maxsize=1024)
def _set_in(mask: bytes) -> list[int]:
    return [token for token in range(256) if mask[token >> 3] >> (token & 7) & 1]


def walked(grammar: str, seed: int, n_max: int = 3000, *, printable: bool = False) -> str:
    """A text that the grammar allows, byte by byte at random, ended as soon as it may end."""
    matcher = matcher_of(grammar)
    assert not matcher.is_error(), matcher.get_error()
    draw = random.Random(seed)
    written = bytearray()
    while not matcher.is_accepting() and len(written) < n_max:
        allowed = _set_in(matcher.compute_bitmask())
        some = [token for token in allowed if 32 <= token < 127] if printable else []
        token = draw.choice(some or allowed)
        assert matcher.consume_token(token), matcher.get_error()
        written.append(token)
    assert matcher.is_accepting()
    return written.decode("utf-8", "replace")


def allows(grammar: str, text: str) -> bool:
    matcher = matcher_of(grammar)
    assert not matcher.is_error(), matcher.get_error()
    data = text.encode()
    return bool(matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting())
