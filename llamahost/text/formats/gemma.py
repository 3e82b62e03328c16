"""FunctionGemma and Gemma 4: a notation of their own, with marks for quotes.

<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>

<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Calls, json_of, new_id, read_string, typed
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.script import Markers, Outcome, Script, Steps
from llamahost.text.formats.values import Values, separated

_MAX_DEPTH = 128
_KEYED = Markers(":")
_VALUED = Markers(",", "}", "]")


@dataclass(frozen=True, slots=True)
class _Notation:
    """A Notation: keys are bare and in order, as the templates write them."""

    quote: str
    words: tuple[str, str, str] = ("true", "false", "null")
    comma: str = ","
    is_sorted: bool = True

    def string(self, rules: Rules, n_min: int, n_max: int | None, patterns: Sequence[str] = ()) -> str:
        text = rules.bounded(rules.new("text"), self.quote, n_min, n_max, patterns=patterns)
        return f"({rules.text(self.quote)} {text})"

    def quoted(self, rules: Rules, text: str) -> str:
        return rules.text(self.quote + text + self.quote)

    def key(self, rules: Rules, key: str) -> str:
        return f'{literal(key)} ":"'

    def any_key(self, rules: Rules) -> str:
        return '/[A-Za-z_][A-Za-z0-9_]*/ ":"'


@dataclass(frozen=True, slots=True)
class _Gemma:
    """A Family."""

    name: str
    sign: str
    open: str
    close: str
    quote: str
    begins_bare: bool = False
    _quoted: Markers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_quoted", Markers(self.quote))

    @property
    def opens(self) -> tuple[str, ...]:
        return (self.open,)

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.open, self.close, self.quote)

    def is_spoken(self, template: str) -> bool:
        return self.sign in template

    def new_id(self) -> str:
        return new_id()

    @property
    def begins(self) -> str:
        return self.open

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        calls = []
        for k, tool in enumerate(tools):
            param = f"tools[{k}].function.parameters"
            values = Values(_Notation(self.quote), rules, tool.parameters, param, f"v{k}", tool.strict)
            arguments = separated(values.arguments(lambda name: f'{literal(name)} ":"'), '","')
            calls.append(f'"call:" {literal(tool.name)} "{{" {arguments} "}}"')
        call = rules.add("call", *calls)
        return rules.add("calls", f"{call} {rules.text(self.close)}")

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        yield from script.spaces()
        if not (yield from script.take("call:")):
            return "no"
        yield from script.spaces()
        name = yield from script.take_one(calls.names)
        yield from script.spaces()
        if not name or (yield from script.peek()) != "{":
            return "no"
        calls.open(name)
        if not (yield from self._object(script, calls, 0)):
            return "broken"
        if not calls.is_full:
            yield from script.spaces()
            yield from script.take(self.close)
        return "whole"

    def _object(self, script: Script, calls: Calls, depth: int) -> Steps[bool]:
        return (yield from self._listed(script, calls, "{}", lambda: self._member(script, calls, depth)))

    def _list(self, script: Script, calls: Calls, depth: int) -> Steps[bool]:
        return (yield from self._listed(script, calls, "[]", lambda: self._value(script, calls, depth)))

    def _listed(self, script: Script, calls: Calls, brackets: str, read_one: Callable[[], Steps[bool]]) -> Steps[bool]:
        """All that stands between these brackets, with commas."""
        begin, end = brackets[0], brackets[1]
        yield from script.take(begin)
        calls.tell(begin)
        n = 0
        yield from script.spaces()
        while not (yield from script.take(end)):
            if n:
                if not (yield from script.take(",")):
                    return False
                calls.tell(", ")
                yield from script.spaces()
            n += 1
            if not (yield from script.peek()) or not (yield from read_one()):
                return False
            yield from script.spaces()
        calls.tell(end)
        return True

    def _member(self, script: Script, calls: Calls, depth: int) -> Steps[bool]:
        if not (yield from self._key(script, calls)):
            return False
        yield from script.spaces()
        return (yield from self._value(script, calls, depth))

    def _key(self, script: Script, calls: Calls) -> Steps[bool]:
        """Up to its colon: bare, or within marks or plain quotes."""
        pieces: list[str] = []
        if not (yield from script.until(_KEYED, pieces.append, trims=False)):
            return False
        key = "".join(pieces).strip().removeprefix(self.quote).removesuffix(self.quote)
        calls.tell(json_of(key.strip('"')) + ": ")
        return True

    def _value(self, script: Script, calls: Calls, depth: int) -> Steps[bool]:
        if (yield from script.take(self.quote)):
            return (yield from read_string(script, calls, self._quoted))
        character = yield from script.peek()
        if character == "{" and depth < _MAX_DEPTH:
            return (yield from self._object(script, calls, depth + 1))
        if character == "[" and depth < _MAX_DEPTH:
            return (yield from self._list(script, calls, depth + 1))
        pieces: list[str] = []
        ended = yield from script.until(_VALUED, pieces.append, trims=False)
        calls.tell(typed("".join(pieces).strip(), frozenset()))
        script.at -= len(ended)
        return bool(ended)


FUNCTION_GEMMA = _Gemma(
    name="function-gemma",
    sign="<start_function_call>",
    open="<start_function_call>",
    close="<end_function_call>",
    quote="<escape>",
)

GEMMA_4 = _Gemma(
    name="gemma-4",
    sign="<|tool_call>call:",
    open="<|tool_call>",
    close="<tool_call|>",
    quote='<|"|>',
)
