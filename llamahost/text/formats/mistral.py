"""Mistral: a list of JSON objects at first, later each name with its object. An id has nine letters and digits.

[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abcdefgh1"}]

[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{"city": "Paris"}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Calls, new_short_id
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.json_calls import JsonCalls, read_calls
from llamahost.text.formats.named_calls import read_arguments
from llamahost.text.formats.script import Outcome, Script, Steps

_ID = re.compile(r"[a-zA-Z0-9]*")
N_ID = 9


@dataclass(frozen=True, slots=True)
class _Mistral:
    """A Family. Both forms are read of either."""

    name: str
    sign: str
    has_ids: bool = False
    is_list: bool = False
    opens: tuple[str, ...] = ("[TOOL_CALLS]",)
    markers: tuple[str, ...] = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
    begins_bare: bool = False

    def is_spoken(self, template: str) -> bool:
        return "[TOOL_CALLS]" in template and self.sign in template

    @property
    def begins(self) -> str:
        return self.opens[0]

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        if self.is_list:
            return JsonCalls(self.name, self.is_spoken, self.opens, is_list=True).write(rules, tools, n_calls)
        id_ = f"{rules.text('[CALL_ID]')} /[a-zA-Z0-9]{{{N_ID}}}/ " if self.has_ids else ""
        calls = [
            f"{literal(tool.name)} {id_}{rules.text('[ARGS]')} {rules.arguments(tool, k)}"
            for k, tool in enumerate(tools)
        ]
        return rules.add("calls", *calls)

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        yield from script.spaces()
        if (yield from script.peek()) in ("[", "{"):
            return (yield from read_calls(script, calls))
        name = yield from script.take_one(calls.names)
        if not name:
            return "no"
        id_ = ""
        if (yield from script.take("[CALL_ID]")):
            id_ = yield from script.run_of(_ID, 64)
        yield from script.take("[ARGS]")
        if (yield from read_arguments(script, calls, name, id_=id_ if len(id_) == N_ID else "")):
            return "whole"
        return "no" if script.is_kept else "broken"

    def new_id(self) -> str:
        return new_short_id()


MISTRAL_IDS = _Mistral("mistral-ids", "[CALL_ID]", has_ids=True)
MISTRAL = _Mistral("mistral", "[ARGS]")
MISTRAL_LIST = _Mistral("mistral-list", "", is_list=True)
