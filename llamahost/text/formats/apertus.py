"""Apertus: a list of objects, each with a function's name for its only key.

<|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Calls, new_id, read_many
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.json_text import read_text
from llamahost.text.formats.named_calls import read_arguments
from llamahost.text.formats.script import Outcome, Script, Steps


class _Apertus:
    """A Family."""

    name = "apertus"
    opens = ("<|tools_prefix|>",)
    close = "<|tools_suffix|>"
    markers = (*opens, close)
    begins_bare = False

    def is_spoken(self, template: str) -> bool:
        return "<|tools_prefix|>" in template

    def new_id(self) -> str:
        return new_id()

    @property
    def begins(self) -> str:
        return self.opens[0]

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        calls = [
            f'"{{" {literal(json.dumps(tool.name, ensure_ascii=False))} ": " {rules.arguments(tool, k)} "}}"'
            for k, tool in enumerate(tools)
        ]
        call = rules.add("call", *calls)
        more = "" if n_calls == 1 else f' ("," WS {call})*'
        return rules.add("calls", f'"[" {call}{more} "]" {rules.text(self.close)}')

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        outcome = yield from read_many(script, calls, lambda: self._read(script, calls), between=(",",))
        if outcome == "whole" and not calls.is_full:
            yield from script.spaces()
            yield from script.take(self.close)
        return outcome

    def _read(self, script: Script, calls: Calls) -> Steps[Outcome]:
        if not (yield from script.take("{")):
            return "no"
        yield from script.spaces()
        name = yield from read_text(script)
        yield from script.spaces()
        if name is None or not (yield from script.take(":")):
            return "no"
        if not (yield from read_arguments(script, calls, name)):
            return "no" if script.is_kept else "broken"
        yield from script.spaces()
        return "whole" if (yield from script.take("}")) else "broken"


APERTUS = _Apertus()
