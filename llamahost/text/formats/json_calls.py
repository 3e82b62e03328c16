"""Read calls that are JSON objects: a name, arguments, and around them a list, marks, or nothing. Knows no family."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Calls, new_id, read_many
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.json_text import read_text, read_value
from llamahost.text.formats.script import Outcome, Script, Steps

_NAMES = frozenset({"name", "tool_name"})
_ARGUMENTS = frozenset({"arguments", "parameters"})


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """A Family: `open` {"name": …, "arguments": {…}} `close`, or a list of such objects. `close` may be missing.

    Bare, a call is one only where the words begin with it.
    """

    name: str
    is_spoken: Callable[[str], bool]
    opens: tuple[str, ...]
    close: tuple[str, ...] = ()
    begins_bare: bool = False
    keys: tuple[str, str] = ("name", "arguments")
    ids: str = ""  # the key of a number that each call begins with
    is_list: bool = False
    gap: str = ""  # white space within the marks
    new_id: Callable[[], str] = new_id

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self.opens, *self.close)

    @property
    def begins(self) -> str:
        return "" if self.begins_bare and not self.close else self.opens[0]

    def starts(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        """With the name, which no other object is likely to have; in the two ways that models leave spaces."""
        name = json.dumps(self.keys[0])
        heads = (f"{{{name}: ", f"{{{name}:", f'{{"type": "function", {name}: ')
        return tuple(head + json.dumps(tool.name, ensure_ascii=False) for tool in tools for head in heads)

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        """In pieces as JSON's own: a longer one would shut out words that only begin as it does."""
        name, arguments = (literal(json.dumps(key)) for key in self.keys)
        id_, colon = "", '": "'
        if self.ids:
            id_ = f'{literal(json.dumps(self.ids))} ": " /"[0-9]{{1,2}}"/ ", " '
        if not self.begins:
            id_, colon = '("\\"type\\"" ": " "\\"function\\"" ", ")? ', "/: ?/"
        calls = [
            f'"{{" {id_}{name} {colon} {literal(json.dumps(tool.name, ensure_ascii=False))} ", " '
            f'{arguments} ": " {rules.arguments(tool, k)} "}}"'
            for k, tool in enumerate(tools)
        ]
        call = rules.add("call", *calls)
        if self.is_list:
            more = "" if n_calls == 1 else f' ("," WS {call})*'
            call = f'"[" WS {call}{more} WS "]"'
        closed = rules.text(self.close[0]) if self.close else ""
        gap = literal(self.gap)
        return rules.add("calls", f"{gap} {call} {gap} {closed}")

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        outcome = yield from read_calls(script, calls)
        if outcome == "whole" and self.close and not calls.is_full:
            yield from script.spaces()
            yield from script.take_one(self.close)
        return outcome


def read_calls(script: Script, calls: Calls) -> Steps[Outcome]:
    """One object, several after one another, or a list of them."""
    return read_many(
        script, calls, lambda: read_call(script, calls), between=(",", ";"), between_bare=(";",), again="{"
    )


def read_call(script: Script, calls: Calls, *, is_inner: bool = False) -> Steps[Outcome]:
    """One object, whose keys may stand in any order; told from when both the name and the arguments have begun."""
    if not (yield from script.take("{")):
        return "no"
    name, held, is_open = "", "", False

    def failed() -> Outcome:
        return "broken" if is_open else "no"

    yield from script.spaces()
    while True:
        key = yield from read_text(script)
        yield from script.spaces()
        if key is None or not (yield from script.take(":")):
            return failed()
        yield from script.spaces()
        first = yield from script.peek()
        if key in _NAMES and first == '"' and not name:
            name = (yield from read_text(script)) or ""
            if held:
                if not calls.open(name):
                    return "no"
                is_open = True
                calls.tell(held)
        elif key in _ARGUMENTS and not is_open and not held:
            if name and first in ("{", '"'):
                if not calls.open(name):
                    return "no"
                is_open = True
                if not (yield from _read_arguments(script, calls.tell)):
                    return "broken"
            else:
                pieces: list[str] = []
                if not (yield from _read_arguments(script, pieces.append)):
                    return "no"
                held = "".join(pieces)
        elif key == "function" and first == "{" and not name and not is_inner:
            # OpenAI's own form, one deeper; no more, or a model that repeats itself would use up Python's stack.
            outcome = yield from read_call(script, calls, is_inner=True)
            if outcome != "whole":
                return outcome
            is_open = True
        elif not (yield from read_value(script, _ignored)):
            return failed()
        yield from script.spaces()
        if (yield from script.take("}")):
            break
        if not (yield from script.take(",")):
            return failed()
        yield from script.spaces()
    if is_open:
        return "whole"
    if not name or not calls.open(name):
        return "no"
    calls.tell(held or "{}")
    return "whole"


def _read_arguments(script: Script, tell: Callable[[str], object]) -> Steps[bool]:
    """An object; or one that was written as a string, or null for one that is empty."""
    first = yield from script.peek()
    if first == '"':
        text = yield from read_text(script)
        if text is None:
            return False
        tell(text or "{}")
        return True
    if first and first in "nN":
        is_null = bool((yield from script.take_one(("null", "None"))))
        if is_null:
            tell("{}")
        return is_null
    return first == "{" and (yield from read_value(script, tell))


def _ignored(text: str) -> None:
    """Of a key that means nothing here."""
