"""Read calls that are written as Python calls its functions, and tell them as JSON. Knows no family.

[get_weather(city="Paris", days=2), get()]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llamahost.core.messages import Tool
from llamahost.text.constraint import regex
from llamahost.text.formats.calls import Arguments, Calls, json_of, new_id, read_many
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.json_text import IS_NUMBER, MAX_DEPTH, MAX_NUMBER, WORD, WORDS
from llamahost.text.formats.script import Outcome, Script, Steps
from llamahost.text.formats.values import Values, separated

Tell = Callable[[str], object]

_NAME = re.compile(r"\w*")
_NUMBER = re.compile(r"[-+.0-9eE_]*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\\": "\\", "'": "'", '"': '"', "\n": ""}
_HEX = {"x": 2, "u": 4, "U": 8}
MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class PythonCalls:
    """A Family: `open` [name(key=value, …), …] `close`; bare, only where the list begins with a known function."""

    name: str
    is_spoken: Callable[[str], bool]
    opens: tuple[str, ...]
    close: str = ""
    begins_bare: bool = False
    new_id: Callable[[], str] = new_id

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self.opens, self.close) if self.close else self.opens

    @property
    def begins(self) -> str:
        return "" if self.begins_bare else self.opens[0]

    def starts(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return tuple(f"[{tool.name}(" for tool in tools)

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        call = rules.add("call", *(self._write(rules, tool, k) for k, tool in enumerate(tools)))
        more = "" if n_calls == 1 else f' ("," WS {call})*'
        return rules.add("calls", f'"[" {call}{more} "]" {rules.text(self.close) if self.begins else ""}')

    def _write(self, rules: Rules, tool: Tool, k: int) -> str:
        values = Values(PYTHON, rules, tool.parameters, f"tools[{k}].function.parameters", f"v{k}", tool.strict)
        arguments = values.arguments(lambda name: f'{literal(name)} "="')
        return f'{literal(tool.name)} "(" {separated(arguments, literal(PYTHON.comma))} ")"'

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        outcome = yield from read_calls(script, calls)
        if outcome == "whole" and self.close and not calls.is_full:
            yield from script.spaces()
            yield from script.take(self.close)
        return outcome


@dataclass(frozen=True, slots=True)
class _Python:
    """A Notation."""

    words: tuple[str, str, str] = ("True", "False", "None")
    comma: str = ", "
    is_sorted: bool = False

    def string(self, rules: Rules, n_min: int, n_max: int | None, patterns: Sequence[str] = ()) -> str:
        times = f"{{{n_min},{'' if n_max is None else n_max}}}"
        if patterns:  # of what needs no escape, which a pattern knows nothing of
            wholes = [rf"[^\"\\\x00-\x1F]{times}", *patterns]
            return rules.add(rules.new("TEXT"), " & ".join(regex(f'"({each})"') for each in wholes))
        escapes = r"\\[\\nrt'\"]"
        return f"/\"([^\"\\\\\\x00-\\x1F]|{escapes}){times}\"|'([^'\\\\\\x00-\\x1F]|{escapes}){times}'/"

    def quoted(self, rules: Rules, text: str) -> str:
        double = json_of(text)
        single = double[1:-1].replace('\\"', '"').replace("'", "\\'")
        single = f"'{single}'"
        return f"({literal(double)} | {literal(single)})"

    def key(self, rules: Rules, key: str) -> str:
        return f'{self.quoted(rules, key)} ": "'

    def any_key(self, rules: Rules) -> str:
        return f'{self.string(rules, 0, None)} ": "'


PYTHON = _Python()


def read_calls(script: Script, calls: Calls) -> Steps[Outcome]:
    """One call, or a list of them."""
    return read_many(script, calls, lambda: _read_call(script, calls), between=(",",))


def _read_call(script: Script, calls: Calls) -> Steps[Outcome]:
    name = yield from script.take_one(calls.names)
    if not name or not (yield from script.take("(")):
        return "no"
    calls.open(name)
    arguments = Arguments(calls, name)
    yield from script.spaces()
    while not (yield from script.take(")")):
        key = yield from script.run_of(_NAME, MAX_NAME)
        yield from script.spaces()
        if not key or not (yield from script.take("=")):
            if (yield from script.peek()):
                arguments.close()
            return "broken"
        yield from script.spaces()
        arguments.key(key)
        if not (yield from read_value(script, calls.tell, 0)):
            return "broken"
        yield from script.spaces()
        if not (yield from script.take(",")) and (yield from script.peek()) not in (")", ""):
            arguments.close()
            return "broken"
        yield from script.spaces()
        if not (yield from script.peek()):
            return "broken"
    arguments.close()
    return "whole"


def read_value(script: Script, tell: Tell, depth: int) -> Steps[bool]:
    """A literal of Python's, or of JSON's, told as JSON."""
    character = yield from script.peek()
    if character in ("'", '"'):
        return (yield from _read_string(script, tell, character))
    if character in ("[", "(", "{") and depth < MAX_DEPTH // 4:  # these readers stand in one another
        return (yield from _read_many(script, tell, depth))
    if character and character in "-+.0123456789":
        number = (yield from script.run_of(_NUMBER, MAX_NUMBER)).replace("_", "").lstrip("+")
        tell(number if IS_NUMBER.fullmatch(number) else json_of(number))
        return True
    word = yield from script.run_of(WORD, 5)
    if word in WORDS:
        tell(WORDS[word])
        return True
    script.at -= len(word)
    return False


def _read_many(script: Script, tell: Tell, depth: int) -> Steps[bool]:
    opened = yield from script.take_one(("[", "(", "{"))
    closer = {"[": "]", "(": ")", "{": "}"}[opened]
    tell("{" if opened == "{" else "[")
    n = 0
    yield from script.spaces()
    while not (yield from script.take(closer)):
        if n:
            if not (yield from script.take(",")):
                return False
            yield from script.spaces()
            if (yield from script.take(closer)):  # after a comma, which Python allows
                break
            tell(", ")
        n += 1
        if opened == "{":
            quote = yield from script.peek()
            if quote not in ("'", '"') or not (yield from _read_string(script, tell, quote)):
                return False
            yield from script.spaces()
            if not (yield from script.take(":")):
                return False
            tell(": ")
            yield from script.spaces()
        if not (yield from read_value(script, tell, depth + 1)):
            return False
        yield from script.spaces()
    tell("}" if opened == "{" else "]")
    return True


def _read_string(script: Script, tell: Tell, quote: str) -> Steps[bool]:
    plain = re.compile(r"[^'\\]*" if quote == "'" else r'[^"\\]*')
    script.at += 1
    tell('"')
    while True:
        tell(json_of(script.some_of(plain))[1:-1])
        character = yield from script.peek()
        if character == "":
            return False
        if character == quote:
            script.at += 1
            tell('"')
            return True
        if character == "\\":
            tell(json_of((yield from _read_escape(script)))[1:-1])


def _read_escape(script: Script) -> Steps[str]:
    """What it means; an unknown one is itself, as in Python."""
    yield from script.take("\\")
    character = yield from script.peek()
    if character in _ESCAPES:
        script.at += 1
        return _ESCAPES[character]
    if character not in _HEX:
        return "\\"
    script.at += 1
    digits = ""
    while len(digits) < _HEX[character]:
        digit = yield from script.peek()
        if digit == "" or digit not in "0123456789abcdefABCDEF":
            return "\\" + character + digits
        digits += digit
        script.at += 1
    code = int(digits, 16)
    return chr(code) if code < 0x110000 else "\ufffd"
