"""Solar Open: every part of an answer has a head; a call has an id, a name and JSON.

<|think|>…<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>get_weather
<|tool_call:args|>{"city": "Paris"}<|tool_call:end|><|calls|>
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Sequence

from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Calls
from llamahost.text.formats.format import Thinking
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.named_calls import read_arguments
from llamahost.text.formats.script import Outcome, Script, Steps

_BEGIN, _NAME, _ARGS, _END = (f"<|tool_call:{word}|>" for word in ("begin", "name", "args", "end"))
_ID = re.compile(r"[A-Za-z0-9_-]*")
_LETTERS = string.ascii_lowercase + string.digits

SOLAR_THINKING = Thinking("<|think|>", "<|end|>", dropped=("<|begin|>assistant", "<|content|>", "<|end|>", "<|calls|>"))


class _Solar:
    """A Family."""

    name = "solar"
    opens = ("<|tool_calls|>", _BEGIN)
    markers = (*opens, _NAME, _ARGS, _END, "<|begin|>")
    begins_bare = False
    begins = opens[0]

    def is_spoken(self, template: str) -> bool:
        return _BEGIN in template and _ARGS in template

    def new_id(self) -> str:
        return "".join(secrets.choice(_LETTERS) for _ in range(10))

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        begun, named, argued, ended = map(rules.text, (_BEGIN, _NAME, _ARGS, _END))
        calls = [
            f"{begun} /[a-z0-9]{{10}}/ {named} {literal(tool.name)} {argued} {rules.arguments(tool, k)} {ended}"
            for k, tool in enumerate(tools)
        ]
        call = rules.add("call", *calls)
        return rules.add("calls", f"{call}{'' if n_calls == 1 else f' {call}*'}")

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        """One call: the next begins with a mark of its own."""
        yield from script.spaces()
        if opened != _BEGIN and not (yield from script.take(_BEGIN)):
            return "no"
        id_ = yield from script.run_of(_ID, 64)
        if not (yield from script.take(_NAME)):
            return "no"
        name = yield from script.take_one(calls.names)
        if not name or not (yield from script.take(_ARGS)):
            return "no"
        if not (yield from read_arguments(script, calls, name, id_=id_)):
            return "no" if script.is_kept else "broken"
        if not calls.is_full:
            yield from script.spaces()
            yield from script.take(_END)
        return "whole"


SOLAR = _Solar()
