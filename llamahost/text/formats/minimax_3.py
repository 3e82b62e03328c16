"""MiniMax M3: a tag for each argument, named as it is, and for each member and item within it; no null.

]<]minimax[>[<tool_call>
]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>Paris]<]minimax[>[</city>]<]minimax[>[</invoke>
]<]minimax[>[</tool_call>
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Calls, found_at, json_of, new_id, read_section, read_string, typed, types_named
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.script import Markers, Outcome, Script, Steps
from llamahost.text.formats.strings import patterns_of
from llamahost.text.formats.values import KEYWORDS, SAID, bounds, of_type

_NS = "]<]minimax[>["
_MARK = Markers(_NS)
_KEY = re.compile(r"[^\s<>\[\]]*")
MAX_KEY = 256
MAX_DEPTH = 64


class _MiniMax:
    """A Family."""

    name = "minimax-m3"
    opens = (f"{_NS}<tool_call>",)
    markers = (_NS,)
    begins_bare = False
    begins = opens[0]

    def is_spoken(self, template: str) -> bool:
        return _NS in template

    def new_id(self) -> str:
        return new_id()

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        calls: list[str] = []
        for k, tool in enumerate(tools):
            writing = _Writing(rules, tool, f"tools[{k}].function.parameters", f"v{k}")
            begun = rules.text(f'{_NS}<invoke name="{tool.name}">')
            calls.append(f"{begun} {writing.members(tool.parameters, '', 0)} {rules.text(f'{_NS}</invoke>')}")
        call = rules.add("call", *calls)
        more = "" if n_calls == 1 else f" (NL {call})*"
        return rules.add("calls", f"NL {call}{more} NL {rules.text(f'{_NS}</tool_call>')}")

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        return (yield from read_section(script, calls, lambda: self._read_call(script, calls), f"{_NS}</tool_call>"))

    def _read_call(self, script: Script, calls: Calls) -> Steps[Outcome]:
        if not (yield from script.take(f'{_NS}<invoke name="')):
            return "no"
        name = yield from script.take_one(calls.names)
        if not name or not (yield from script.take('">')):
            return "no"
        calls.open(name)
        reading = _Call(script, calls, name)
        if (yield from reading.members((), "invoke", is_begun=False)):
            return "whole"
        if (yield from script.peek()):
            calls.tell("".join(reversed(reading.open)))
        return "broken"


@dataclass(slots=True)
class _Call:
    """One call's arguments as they are read. `open` are the brackets to be closed."""

    script: Script
    calls: Calls
    name: str
    open: list[str] = field(default_factory=list)

    def members(self, path: tuple[str, ...], closer: str, *, is_begun: bool) -> Steps[bool]:
        """All elements up to the end of this one. `is_begun`: the mark of the first has been read."""
        script, calls, n = self.script, self.calls, 0
        while True:
            if not is_begun:
                yield from script.spaces()
                if not (yield from script.take(_NS)):
                    return False
            is_begun = False
            if (yield from script.take("</")):
                calls.tell(self.open.pop() if n else "{}")
                return (yield from script.take(f"{closer}>"))
            if not (yield from script.take("<")):
                return False
            key = yield from script.run_of(_KEY, MAX_KEY)
            if not key or not (yield from script.take(">")):
                return False
            if not n:
                types = calls.types_at(self.name, path) if path else frozenset(("object",))
                is_list = "array" in types or ("object" not in types and key == "item")
                calls.tell("[" if is_list else "{")
                self.open.append("]" if is_list else "}")
            else:
                calls.tell(", ")
            n += 1
            if self.open[-1] == "}":
                calls.tell(f"{json_of(key)}: ")
            if not (yield from self._value((*path, key), key)):
                return False

    def _value(self, path: tuple[str, ...], key: str) -> Steps[bool]:
        script, calls = self.script, self.calls
        types = calls.types_at(self.name, path)
        if (yield from script.take(_NS)):
            if (yield from script.take("</")):
                calls.tell("[]" if types == {"array"} else "{}" if types == {"object"} else '""')
                return (yield from script.take(f"{key}>"))
            return len(path) < MAX_DEPTH and (yield from self.members(path, key, is_begun=True))
        if types == {"string"}:
            if not (yield from read_string(script, calls, _MARK)):
                return False
        else:
            pieces: list[str] = []
            if not (yield from script.until(_MARK, pieces.append, trims=False)):
                calls.tell(typed("".join(pieces), types))
                return False
            calls.tell(typed("".join(pieces), types))
        return (yield from script.take(f"</{key}>"))


@dataclass(slots=True)
class _Writing:
    """One call's arguments as a grammar. A value that may be null, which is not written, is another one or left out."""

    rules: Rules
    tool: Tool
    param: str
    name: str
    _n: int = 0
    _by_reference: dict[str, str] = field(default_factory=dict)

    def members(self, schema: Mapping[str, object], path: str, depth: int) -> str:
        properties, required = schema.get("properties"), schema.get("required")
        wanted = required if isinstance(required, list) else []
        written = []
        for key, value in properties.items() if isinstance(properties, Mapping) else ():
            element = self._element(key, value, f"{path}/properties/{key}", depth)
            written.append(element if key in wanted else f"({element})?")
        return " ".join(written)

    def _element(self, key: str, schema: object, path: str, depth: int) -> str:
        if not _KEY.fullmatch(key):
            raise self._unheld("this name", path)
        return f"{self.rules.text(f'{_NS}<{key}>')} {self._value(schema, path, depth)} {self.rules.text(f'</{key}>')}"

    def _value(self, schema: object, path: str, depth: int) -> str:
        """Symbols of all up to the last mark: the name of the closing tag follows."""
        if self.tool.strict or not self.rules.is_loose:
            try:
                return self._exact(schema, path, depth)
            except InvalidRequest:
                if self.tool.strict:
                    raise
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        if kind in ("object", "array"):  # as JSON, which is read as well
            return f"{self.rules.embed({'type': kind}, '')} {self.rules.text(_NS)}"
        return self.rules.up_to(self._new(), _NS)

    def _exact(self, schema: object, path: str, depth: int) -> str:
        if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
            raise self._unheld("this schema", path)
        if "$ref" in schema:
            return self._referred(schema, path, depth)
        if "enum" in schema or "const" in schema:
            choices = [schema["const"]] if "const" in schema else schema["enum"]
            if not isinstance(choices, list) or not all(isinstance(each, str | int | float) for each in choices):
                raise self._unheld("this `enum`", path)
            written = (literal(each if isinstance(each, str) else json.dumps(each)) for each in choices)
            return self.rules.add(self._new(), *(f"{each} {self.rules.text(_NS)}" for each in written))
        for word in ("anyOf", "oneOf"):
            branches = schema.get(word)
            if isinstance(branches, list):
                self._check(schema, {word}, path)
                some = [(k, each) for k, each in enumerate(branches) if each != {"type": "null"}]
                if word == "oneOf" and len(some) > 1:
                    raise self._unheld("`oneOf`", path)
                self._check_told_apart(schema, path)
                values = [self._exact(each, f"{path}/{word}/{k}", depth + 1) for k, each in some]
                if not values:
                    raise self._unheld("what may be null alone", path)
                return self.rules.add(self._new(), *values)
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [one for one in kind if one != "null"]
            self._check_told_apart(schema, path)
            if not kinds:
                raise self._unheld("what may be null alone", path)
            return self.rules.add(self._new(), *(self._exact(of_type(schema, one), path, depth + 1) for one in kinds))
        if not isinstance(kind, str) or kind not in KEYWORDS or kind == "null":
            raise self._unheld("a schema without a type", path)
        self._check(schema, KEYWORDS[kind], path)
        return self._typed(kind, schema, path, depth)

    def _typed(self, kind: str, schema: Mapping[str, object], path: str, depth: int) -> str:
        rules, end = self.rules, self.rules.text(_NS)
        if kind == "string":
            patterns = patterns_of(schema)
            if patterns is None:
                raise self._unheld("this `pattern` or `format`", path)
            return rules.bounded(self._new(), _NS, *bounds(schema, "minLength", "maxLength"), patterns=patterns)
        if kind == "array":
            item = self._element("item", schema.get("items"), f"{path}/items", depth + 1)
            n_min, n_max = bounds(schema, "minItems", "maxItems")
            if n_max == 0:
                return rules.add(self._new(), end)
            return rules.add(self._new(), f"({item}){{{n_min},{'' if n_max is None else n_max}}} {end}")
        if kind == "object":
            if schema.get("additionalProperties") not in (None, False) or not schema.get("properties"):
                raise self._unheld("an object of such keys", path)
            return rules.add(self._new(), f"{self.members(schema, path, depth + 1)} {end}")
        return rules.add(self._new(), f"{rules.embed(schema, f'{self.param}{path}')} {end}")

    def _new(self) -> str:
        self._n += 1
        return f"{self.name}_{self._n}"

    def _check(self, schema: Mapping[str, object], known: frozenset[str] | set[str], path: str) -> None:
        unknown = next((key for key in schema if key not in known and key not in SAID), None)
        if unknown is not None:
            raise self._unheld(f"`{unknown}`", f"{path}/{unknown}")

    def _check_told_apart(self, schema: object, path: str) -> None:
        """A bare value is read as a number or a boolean where it can be one."""
        types = types_named(schema, self.tool.parameters)
        if self.tool.strict and "string" in types and types & {"integer", "number", "boolean"}:
            raise self._unheld("a string or something else, neither in quotes,", path)

    def _referred(self, schema: Mapping[str, object], path: str, depth: int) -> str:
        reference = schema["$ref"]
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise self._unheld("this `$ref`", path)
        if reference not in self._by_reference:
            found = found_at(reference, self.tool.parameters)
            if found is None:
                raise self._unheld("this `$ref`", path)
            self._by_reference[reference] = f"{self.name}_r{len(self._by_reference)}"
            rule = self._by_reference[reference]
            try:
                self.rules.add(rule, self._exact(found, path, depth + 1))
            except InvalidRequest:
                if self.tool.strict:
                    raise
                self.rules.add(rule, self.rules.up_to(self._new(), _NS))  # others may refer to it, too
        return self._by_reference[reference]

    def _unheld(self, what: str, path: str) -> InvalidRequest:
        param = f"{self.param}{path}"
        return InvalidRequest(f"{what} cannot be held to in the form of this model's calls, at `{path}`", param=param)


MINIMAX_3 = _MiniMax()
