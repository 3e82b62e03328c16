"""Read calls whose arguments stand in tags, one by one, and tell them as JSON by what the schema says. Knows no family.

A value that the schema says is a string is told as it comes; any other when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Arguments, Calls, json_of, new_id, read_string, typed, types_named
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.options import options_of
from llamahost.text.formats.script import Markers, Outcome, Script, Steps
from llamahost.text.formats.strings import patterns_of
from llamahost.text.formats.values import bounds

_SAID = frozenset({"description", "title", "default", "examples"})
_PLAIN_TEXT = frozenset({"type", "minLength", "maxLength", "pattern", "format"}) | _SAID
"""Keywords of a string that can be held to between tags."""

_NO_NUMBER = r"([^-0-9\s\x1C-\x1F](?s:.*))?"
_UNLIKE = {
    "integer": _NO_NUMBER,
    "number": _NO_NUMBER,
    "boolean": r"([^tfTF\s\x1C-\x1F](?s:.*))?",
    "array": r"([^\[\s\x1C-\x1F](?s:.*))?",
    "object": r"([^\{\s\x1C-\x1F](?s:.*))?",
}
"""Strings that are not read as one of another type, by their first character, so that what is not one ends there."""


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """A Family: `call` name `named`, then any number of `key` key `keyed` value `valued`, then `close`.

    `opens` are all that calls may begin with: an opening of the section that holds them, or `call` by itself; where
    `call` is empty the name follows the opening at once. With `trims` a line break at each end of a value is a mark's.
    """

    name: str
    is_spoken: Callable[[str], bool]
    opens: tuple[str, ...]
    key: str
    keyed: str
    valued: str
    close: str
    call: str = ""
    named: str = ""
    value: str = ""  # between `keyed` and the value, after white space
    string: tuple[str, ...] = ()  # what `keyed` may be instead, for a value that is a string, and for one that is none
    end: str = ""  # of the section
    trims: bool = False
    tokens: tuple[str, ...] = ()  # control tokens among all these
    new_id: Callable[[], str] = new_id
    begins_bare: bool = False
    _valued: Markers = field(init=False, repr=False, compare=False)
    _keyed: Markers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends = ("\n" + self.valued, self.valued) if self.trims else (self.valued,)
        object.__setattr__(self, "_valued", Markers(*ends))
        object.__setattr__(self, "_keyed", Markers(*filter(None, (*self.string, self.keyed))))

    @property
    def begins(self) -> str:
        return self.opens[0]

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        calls = [
            f"{literal(tool.name)} {rules.text(self.named)} NL {self._write_arguments(rules, tool, k)} "
            f"{rules.text(self.close)}"
            for k, tool in enumerate(tools)
        ]
        call = rules.add("call", *calls)
        if not self.call:
            return rules.add("calls", call)
        opened = f"NL {rules.text(self.call)} {call}"
        if self.opens[0] == self.call:
            opened = call
        more = "" if n_calls == 1 or not self.end or self.call in self.opens else f" ({opened})*"
        return rules.add("calls", f"{opened}{more} NL {rules.text(self.end)}")

    def _write_arguments(self, rules: Rules, tool: Tool, k: int) -> str:
        """The properties in the schema's order; those that are not required may be left out."""
        properties = tool.parameters.get("properties")
        required = tool.parameters.get("required")
        wanted = required if isinstance(required, list) else []
        written: list[str] = []
        for n, (key, schema) in enumerate(properties.items() if isinstance(properties, dict) else ()):
            argument = self._write_argument(rules, tool, key, schema, f"{k}_{n}", f"tools[{k}].function.parameters")
            written.append(argument if key in wanted else f"({argument})?")
        return " ".join(written)

    def _write_argument(self, rules: Rules, tool: Tool, key: str, schema: object, number: str, param: str) -> str:
        """A string as it is, anything else as JSON; where both may be, either, each as it is read."""
        types = types_named(schema, tool.parameters)
        place = f"/properties/{key}"
        is_held = tool.strict or not rules.is_loose
        if "string" not in types:
            defs = {name: tool.parameters[name] for name in ("$defs", "definitions") if name in tool.parameters}
            form = schema if isinstance(schema, dict) else {}
            value = rules.value({**form, **defs}, {}, f"{param}{place}", is_strict=tool.strict)
            return self._written(rules, key, value, is_text=False)
        options = options_of(schema, tool.parameters)
        if options is None:
            if is_held:
                raise _unheld("this schema of a string", place, param)
            options = [{"type": "string"}]
        written: list[str] = []
        for k, option in enumerate(options):
            name = f"{number}_{k}"
            if option.get("type") == "string":
                written.append(self._write_text(rules, tool, key, option, types, name, place, param))
            else:
                value = rules.value(option, {}, f"{param}{place}", is_strict=tool.strict)
                written.append(self._written(rules, key, value, is_text=False))
        return written[0] if len(written) == 1 else rules.add(f"value_{number}", *written)

    def _write_text(
        self,
        rules: Rules,
        tool: Tool,
        key: str,
        form: Mapping[str, object],
        types: frozenset[str],
        number: str,
        place: str,
        param: str,
    ) -> str:
        is_held = tool.strict or not rules.is_loose
        is_read_as_text = types == {"string"} or bool(self.string)
        choices = form.get("enum")
        if isinstance(choices, list):
            for choice in choices if is_held else ():
                if (self.trims and choice != choice.strip("\n")) or not (
                    is_read_as_text or typed(choice, types) == json_of(choice)
                ):
                    raise _unheld(f"the choice {choice!r:.40}, which is read as something else,", place, param)
            one = rules.add(f"one_{number}", *(literal(choice) or '""' for choice in choices))
            return self._written(rules, key, one, is_text=True)
        unknown = [word for word in form if word not in _PLAIN_TEXT]
        patterns = None if unknown else patterns_of(form)
        if not is_held:
            patterns = ()
        elif patterns is None:
            unheld = unknown[0] if unknown else "pattern" if "pattern" in form else "format"
            raise _unheld(f"`{unheld}` of a string", f"{place}/{unheld}", param)
        n_min, n_max = bounds(form, "minLength", "maxLength") if is_held else (0, None)
        if self.trims and tool.strict and (patterns or n_min):  # a line break at an end is read as a mark's
            patterns = (*patterns, r"([^\n]((?s:.*)[^\n])?)?")
        if tool.strict and not is_read_as_text:
            patterns = (*patterns, *(_UNLIKE[kind] for kind in sorted(types) if kind in _UNLIKE))
        gap_before_mark = "\\n?" if self.trims else ""
        text = rules.bounded(f"text_{number}", self.valued, n_min, n_max, gap_before_mark, patterns)
        return f"{self._headed(rules, key, is_text=True)}{text} NL"

    def _written(self, rules: Rules, key: str, value: str, *, is_text: bool) -> str:
        gap = "NL " if self.trims else ""
        return f"{self._headed(rules, key, is_text=is_text)}{value} {gap}{rules.text(self.valued)} NL"

    def _headed(self, rules: Rules, key: str, *, is_text: bool) -> str:
        """All that stands before a value."""
        keyed = self.string[0 if is_text else 1] if self.string else self.keyed
        head = rules.text(self.key + key + keyed)
        if self.value:
            head += f" NL {rules.text(self.value)}"
        return f"{head} {'NL ' if self.trims else ''}"

    @property
    def markers(self) -> tuple[str, ...]:
        return self.tokens or (*self.opens, self.close, *filter(None, (self.end,)))

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        if opened != self.call and self.call:
            yield from script.spaces()
            if not (yield from script.take(self.call)):
                return "no"
        outcome = yield from self._read_call(script, calls)
        while outcome == "whole" and self.end and not calls.is_full:
            yield from script.spaces()
            if (yield from script.take(self.end)) or not self.call:
                break
            script.keep()
            if not (yield from script.take(self.call)):
                break
            outcome = yield from self._read_call(script, calls)
            if outcome == "no":
                script.back()
                return "broken"
        return outcome

    def _read_call(self, script: Script, calls: Calls) -> Steps[Outcome]:
        if not self.call:
            yield from script.spaces()
        name = yield from script.take_one(calls.names)
        if not name:
            return "no"
        if self.named:
            if not (yield from script.take(self.named)):
                return "no"
            calls.open(name)
        yield from script.spaces()
        arguments = Arguments(calls, name)
        while True:
            mark = yield from script.take_one((self.key, self.close))
            if not mark and script.is_kept:
                return "no"  # only a name so far, which anything may follow
            if not arguments.n and script.is_kept:
                calls.open(name)
            if mark == self.close:
                arguments.close()
                return "whole"
            if not mark:
                if (yield from script.peek()):
                    arguments.close()
                return "broken"
            if not (yield from self._read_argument(script, arguments)):
                return "broken"
            yield from script.spaces()

    def _read_argument(self, script: Script, arguments: Arguments) -> Steps[bool]:
        """False where the text ends within, or there is no value."""
        pieces: list[str] = []
        keyed = yield from script.until(self._keyed, pieces.append, trims=False)
        if not keyed:
            return False
        key = "".join(pieces).strip()
        if self.value:
            yield from script.spaces()
            if not (yield from script.take(self.value)):
                if (yield from script.peek()):
                    arguments.close()
                return False
        if self.trims:
            yield from script.take("\n")
        arguments.key(key)
        is_string = keyed == self.string[0] if keyed in self.string else arguments.is_text(key)
        if is_string:
            return (yield from read_string(script, arguments.calls, self._valued))
        written: list[str] = []
        if not (yield from script.until(self._valued, written.append, trims=False)):
            return False
        arguments.value(key, "".join(written))
        return True


def _unheld(what: str, place: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"{what} cannot be held to in the form of this model's calls, at `{place}`", param=f"{param}{place}"
    )
