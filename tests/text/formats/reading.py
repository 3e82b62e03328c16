"""What a format makes of a text: told joined, so that it can be compared; and the cases that a corpus is made of."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llamahost.core.messages import Tool
from llamahost.text.formats.format import Asked, Format
from llamahost.text.splitter import PlainSplitter, Segment, joined

TOOLS = (
    Tool(
        name="get_weather",
        description="The weather of a city",
        parameters={
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
                "where": {"type": "object"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        },
    ),
    Tool(name="get", parameters={"type": "object", "properties": {}}),
    Tool(name="search.web-2", parameters={"type": "object", "properties": {"q": {"type": "string"}}}),
)


@dataclass(frozen=True)
class Told:
    """An answer as it is told in the end. A call is its name and its arguments' text."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()


def told(segments: Iterable[Segment]) -> Told:
    whole = joined(list(segments))
    calls = [(s.call_name, s.text) for s in whole if s.channel == "tool"]
    text, reasoning = ("".join(s.text for s in whole if s.channel == channel) for channel in ("text", "reasoning"))
    return Told(text, reasoning, tuple(calls))


def pieces(text: str, n: int) -> list[str]:
    return [text[k : k + n] for k in range(0, len(text), max(1, n))]


def segments(format_: Format, asked: Asked, parts: Iterable[str]) -> Iterator[Segment]:
    """What is told of these pieces and their end; ids are counted."""
    ids = itertools.count()
    splitter = format_.splitter(asked, lambda: f"id{next(ids)}") or PlainSplitter()
    for part in parts:
        yield from splitter.feed(part)
        if splitter.is_done:
            return
    yield from splitter.flush()


def read(format_: Format, text: str, n: int = 1, **asked: Any) -> Told:
    """The text in pieces of n characters."""
    return told(segments(format_, Asked(**{"tools": TOOLS, **asked}), pieces(text, n)))


def call(name: str, **arguments: object) -> tuple[str, str]:
    return name, json.dumps(arguments, ensure_ascii=False)


@dataclass(frozen=True)
class Case:
    """What a model wrote, and what is to be told of it. Calls are compared as the values that their JSON means."""

    written: str
    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    is_cut: bool = False  # the last call's arguments are no whole JSON, and are compared as text
    is_thinking: bool = False


def agrees(case: Case, found: Told) -> bool:
    if (found.text, found.reasoning, len(found.calls)) != (case.text, case.reasoning, len(case.calls)):
        return False
    for k, ((name, wanted), (found_name, arguments)) in enumerate(zip(case.calls, found.calls, strict=True)):
        is_text = case.is_cut and k == len(case.calls) - 1
        if name != found_name or (arguments != wanted if is_text else json.loads(arguments) != json.loads(wanted)):
            return False
    return True


CITY = call("get_weather", city="Sankt Pölten", days=2)
PARIS = call("get_weather", city="Paris")
SLY = call(
    "get_weather", city='a</tool_call> "quoted" \\ \n{"name": "get"} 🙂', where={"a": [True, None, {"b": 1.5e3}]}
)

NOTHING = [
    Case("Hello, <b>world</b>! [1] {2} 1 < 2\n\n", text="Hello, <b>world</b>! [1] {2} 1 < 2\n\n"),
    Case("", text=""),
    Case(" \n", text=" \n"),
]
"""What is plain text to everybody."""
