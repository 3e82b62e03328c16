"""Kimi K2: the id, which its template wants back as it was, names the function.

<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Paris"}
<|tool_call_end|><|tool_calls_section_end|>
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Calls, new_id
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.named_calls import read_arguments
from llamahost.text.formats.script import Outcome, Script, Steps

_DIGITS = re.compile(r"[0-9]*")


class _Kimi:
    """A Family."""

    name = "kimi-k2"
    opens = ("<|tool_calls_section_begin|>", "<|tool_call_begin|>")
    markers = (*opens, "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>")
    begins_bare = False

    def is_spoken(self, template: str) -> bool:
        return "<|tool_call_argument_begin|>" in template

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        section, call = self.opens
        yield from script.spaces()
        if opened == section:
            if not (yield from script.take(call)):
                return "no"
            yield from script.spaces()
        prefix = yield from script.take_one(("functions.",))
        name = yield from script.take_one(calls.names)
        if not name:
            return "no"
        number = ""
        if (yield from script.take(":")):
            number = yield from script.run_of(_DIGITS, 9)
        yield from script.spaces()
        if not (yield from script.take("<|tool_call_argument_begin|>")):
            return "no"
        id_ = f"{prefix}{name}:{number}" if number else ""
        if not (yield from read_arguments(script, calls, name, id_=id_)):
            return "no" if script.is_kept else "broken"
        if not calls.is_full:
            yield from script.spaces()
            yield from script.take("<|tool_call_end|>")
            yield from script.spaces()
            yield from script.take("<|tool_calls_section_end|>")
        return "whole"

    @property
    def begins(self) -> str:
        return self.opens[0]

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        begun, argued, ended, end = map(rules.text, self.markers[1:])
        calls = [
            f"{begun} {literal(f'functions.{tool.name}:')} /[0-9]{{1,3}}/ {argued} {rules.arguments(tool, k)} {ended}"
            for k, tool in enumerate(tools)
        ]
        call = rules.add("call", *calls)
        return rules.add("calls", f"{call}{'' if n_calls == 1 else f' {call}*'} {end}")

    def new_id(self) -> str:
        return new_id()


KIMI = _Kimi()
