"""Mistral: a list of JSON objects at first, later each name with its object. An id has nine letters and digits.

[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abcdefgh1"}]

[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{"city": "Paris"}
"""

from __future__ import annotations

import re

from llamahost.text.formats.calls import Calls, new_short_id
from llamahost.text.formats.json_calls import read_calls
from llamahost.text.formats.named_calls import read_arguments
from llamahost.text.formats.script import Outcome, Script, Steps

_ID = re.compile(r"[a-zA-Z0-9]*")
N_ID = 9


class _Mistral:
    """A Family."""

    name = "mistral"
    opens = ("[TOOL_CALLS]",)
    markers = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
    begins_bare = False

    def is_spoken(self, template: str) -> bool:
        return "[TOOL_CALLS]" in template

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


MISTRAL = _Mistral()
