"""Kimi K3: tags of three marks, with attributes; each argument says its type. Words stand in a tag of their own.

<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>argument key="city" type="string"<|sep|>
Paris<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Arguments, Calls, found_at, new_id, read_section, read_string
from llamahost.text.formats.format import Thinking
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.json_text import read_value
from llamahost.text.formats.options import options_of
from llamahost.text.formats.script import Markers, Outcome, Script, Steps
from llamahost.text.formats.strings import patterns_of
from llamahost.text.formats.values import KEYWORDS, SAID, bounds, of_type

_OPEN, _CLOSE, _SEP = "<|open|>", "<|close|>", "<|sep|>"
_ENDED = Markers(_CLOSE)
_ATTRIBUTES = re.compile(r"[^<]*")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
_TYPES = {**{kind: kind for kind in ("number", "boolean", "null", "array", "object")}, "integer": "number"}
_ANY: Mapping[str, object] = {"type": ["string", "number", "boolean", "null", "array", "object"]}
MAX_ATTRIBUTES = 1024


def _begun(tag: str) -> str:
    return f"{_OPEN}{tag}{_SEP}"


def _ended(tag: str) -> str:
    return f"{_CLOSE}{tag}{_SEP}"


THINKING_3 = Thinking(
    _begun("think"),
    _ended("think"),
    dropped=(_begun("response"), _ended("response"), _ended("message")),
    tokens=(_OPEN, _CLOSE, _SEP),
)


class _Kimi:
    """A Family."""

    name = "kimi-k3"
    opens = (_begun("tools"),)
    markers = (_OPEN, _CLOSE, _SEP)
    begins_bare = False
    begins = opens[0]

    def is_spoken(self, template: str) -> bool:
        return "'<|open|>'" in template and "<|sep|>" in template

    def new_id(self) -> str:
        return new_id()

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        calls = [
            f'{rules.text(f"{_OPEN}call tool=")} {literal(_quoted(tool.name) + " index=")} /"[0-9]{{1,3}}"/ '
            f"{rules.text(_SEP)} {_arguments(rules, tool, k)} {rules.text(_ended('call'))}"
            for k, tool in enumerate(tools)
        ]
        call = rules.add("call", *calls)
        return rules.add("calls", f"{call}{'' if n_calls == 1 else f' {call}*'} {rules.text(_ended('tools'))}")

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        return (yield from read_section(script, calls, lambda: self._read_call(script, calls), _ended("tools")))

    def _read_call(self, script: Script, calls: Calls) -> Steps[Outcome]:
        if not (yield from script.take(f"{_OPEN}call")):
            return "no"
        name = (yield from _attributes(script)).get("tool", "")
        if not calls.open(name):
            return "no"
        return "whole" if (yield from self._read_arguments(script, Arguments(calls, name))) else "broken"

    def _read_arguments(self, script: Script, arguments: Arguments) -> Steps[bool]:
        while True:
            yield from script.spaces()
            tag = yield from script.take_one((f"{_OPEN}argument", f"{_OPEN}json", _ended("call")))
            if tag == _ended("call"):
                arguments.close()
                return True
            attributes = (yield from _attributes(script)) if tag else {}
            if tag == f"{_OPEN}json" and not arguments.n and attributes:
                return (yield from self._read_json(script, arguments.calls))
            if "key" not in attributes:
                if (yield from script.peek()):
                    arguments.close()
                return False
            if not (yield from _read_argument(script, arguments, attributes["key"], attributes.get("type", ""))):
                return False

    def _read_json(self, script: Script, calls: Calls) -> Steps[bool]:
        """All arguments at once."""
        yield from script.spaces()
        if (yield from script.peek()) != "{":
            calls.tell("{}")
            return False
        if not (yield from read_value(script, calls.tell)):
            return False
        yield from script.spaces()
        return (yield from script.take(_ended("json") + _ended("call")))


def _attributes(script: Script) -> Steps[dict[str, str]]:
    """Those of a tag whose name was read, with the mark behind them; none where they are broken."""
    written = yield from script.run_of(_ATTRIBUTES, MAX_ATTRIBUTES)
    if not (yield from script.take(_SEP)):
        return {}
    found = _ATTRIBUTE.findall(written)
    return {key: value.replace("&quot;", '"').replace("&amp;", "&") for key, value in found}


def _read_argument(script: Script, arguments: Arguments, key: str, kind: str) -> Steps[bool]:
    arguments.key(key)
    if kind == "string" or (not kind and arguments.is_text(key)):
        if not (yield from read_string(script, arguments.calls, _ENDED)):
            return False
    else:
        written: list[str] = []
        ended = yield from script.until(_ENDED, written.append, trims=False)
        arguments.value(key, "".join(written))
        if not ended:
            return False
    return (yield from script.take(f"argument{_SEP}"))


def _arguments(rules: Rules, tool: Tool, k: int) -> str:
    """In the schema's order; those that are not required may be left out."""
    properties, required = tool.parameters.get("properties"), tool.parameters.get("required")
    wanted = required if isinstance(required, list) else []
    written: list[str] = []
    for n, (key, schema) in enumerate(properties.items() if isinstance(properties, Mapping) else ()):
        param = f"tools[{k}].function.parameters/properties/{key}"
        value = _typed(rules, tool, schema, f"v{k}_{n}", param)
        argument = f"{rules.text(f'{_OPEN}argument key=')} {literal(_quoted(key) + ' type=')} {value}"
        written.append(argument if key in wanted else f"({argument})?")
    return " ".join(written)


def _typed(rules: Rules, tool: Tool, schema: object, name: str, param: str) -> str:
    """A rule of all behind `type=`: one for each type that the value may have."""
    form = dict(schema) if isinstance(schema, Mapping) else {}
    for _ in range(8):  # a reference to a reference, and so on
        if isinstance(form.get("$ref"), str):
            found = found_at(str(form["$ref"]), tool.parameters)
            form = dict(found) if isinstance(found, Mapping) else {}
    kinds = form.get("type")
    if "enum" in form or "const" in form:
        choices = [form["const"]] if "const" in form else form["enum"]
        if isinstance(choices, list) and choices and all(isinstance(each, str) for each in choices):
            one = rules.add(f"{name}_one", *(literal(each) or '""' for each in choices))
            return f"{_head(rules, 'string')} {one} {rules.text(_ended('argument'))}"
    defs = {word: tool.parameters[word] for word in ("$defs", "definitions") if word in tool.parameters}
    options = options_of(form, tool.parameters) if "anyOf" in form else None
    if options:
        each = [_typed(rules, tool, option, f"{name}_{n}", param) for n, option in enumerate(options)]
        return rules.add(name, *each)
    if isinstance(kinds, list) and kinds:
        each = [_typed(rules, tool, of_type(form, kind), f"{name}_{n}", param) for n, kind in enumerate(kinds)]
        return rules.add(name, *each)
    if kinds == "string":
        return _string(rules, tool, form, name, param)
    if not isinstance(kinds, str) or kinds not in _TYPES:
        if tool.strict:
            raise InvalidRequest(f"a schema without a type cannot be held to in this form, at `{param}`", param=param)
        return _typed(rules, tool, _ANY, name, param)
    value = rules.value({**form, **defs}, {"type": kinds}, param, is_strict=tool.strict)
    return f"{_head(rules, _TYPES[kinds])} {value} {rules.text(_ended('argument'))}"


def _string(rules: Rules, tool: Tool, form: Mapping[str, object], name: str, param: str) -> str:
    unknown = [word for word in form if word not in KEYWORDS["string"] | SAID]
    patterns = None if unknown else patterns_of(form)
    if patterns is None and tool.strict:
        unheld = unknown[0] if unknown else "pattern" if "pattern" in form else "format"
        place = f"{param}/{unheld}"
        raise InvalidRequest(f"`{unheld}` of a string cannot be held to in this form, at `{place}`", param=place)
    is_held = tool.strict or not rules.is_loose
    n_min, n_max = bounds(form, "minLength", "maxLength") if is_held else (0, None)
    text = rules.bounded(f"{name}_text", _CLOSE, n_min, n_max, patterns=(patterns or ()) if is_held else ())
    return f"{_head(rules, 'string')} {text} {rules.text(f'argument{_SEP}')}"


def _head(rules: Rules, kind: str) -> str:
    return f"{literal(_quoted(kind))} {rules.text(_SEP)}"


def _quoted(text: str) -> str:
    return '"' + text.replace("&", "&amp;").replace('"', "&quot;") + '"'


KIMI_3 = _Kimi()
