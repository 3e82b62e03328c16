"""Functionary 3.2: every part of an answer has a head, whom it goes to; the prompt has begun the first. A Format.

all
Let me look.>>>get_weather
{"city": "Paris"}
"""

from __future__ import annotations

from dataclasses import dataclass

from llamahost.core.work import Constraint
from llamahost.text.formats.calls import Calls, NewId
from llamahost.text.formats.calls import new_id as as_openai
from llamahost.text.formats.format import Asked, Bounds, Reading
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.named_calls import read_arguments
from llamahost.text.formats.script import Markers, Script, Steps
from llamahost.text.splitter import Splitter

_HEAD, _ALL = ">>>", "all"
_HEADS = Markers(_HEAD)


@dataclass(frozen=True, slots=True)
class Functionary:
    name: str = "functionary-v3.2"
    calls: bool = True
    thought: None = None

    def bounds(self, asked: Asked) -> Bounds | None:
        return None

    def markers(self, asked: Asked) -> frozenset[str]:
        return frozenset()

    def begins_thinking(self, prompt: str) -> bool:
        return False

    def splitter(self, asked: Asked, new_id: NewId | None = None) -> Splitter | None:
        return Reading(_Reader, asked, new_id or as_openai)

    def constraint(self, asked: Asked, rules: Rules, *, is_required: bool, words: str = "") -> Constraint | None:
        calls = [f'{literal(tool.name)} "\\n" {rules.arguments(tool, k)}' for k, tool in enumerate(asked.tools)]
        call = rules.add("call", *calls) if calls else ""
        said = f'{literal(_ALL)} "\\n" {words}'
        if not is_required and not words:
            rules.add("start", call, said)
            starts = tuple(f"{tool.name}\n" for tool in asked.tools)
            return Constraint(grammar=rules.grammar(), triggers=(_HEAD,), starts=starts, repeats=True)
        more = "" if asked.n_calls == 1 else f" ({literal(_HEAD)} {call})*"
        rules.add("start", *([f"{call}{more}"] if calls else []), *([] if is_required else [said]))
        return Constraint(grammar=rules.grammar())


class _Reader:
    def __init__(self, script: Script, calls: Calls) -> None:
        self._script = script
        self._calls = calls
        self.is_thinking = False

    def read(self) -> Steps[None]:
        script, calls = self._script, self._calls
        script.keep()
        yield from self._part("")
        while not calls.is_full:
            if not (yield from script.until(_HEADS, script.tell)):
                return
            yield from self._part(_HEAD)

    def _part(self, head: str) -> Steps[None]:
        """What is behind a head, if it is one: a call is read whole, words are left to be told."""
        script, calls = self._script, self._calls
        name = yield from script.take_one(tuple(sorted((*calls.names, _ALL), key=len, reverse=True)))
        is_head = bool(name) and (yield from script.take("\n"))
        if is_head and name in calls.names:
            if (yield from read_arguments(script, calls, name)):
                script.drop()
                if not calls.is_full:
                    yield from script.spaces()
            elif script.is_kept:
                script.tell(script.back())
        elif is_head:
            script.drop()
        else:
            script.tell(script.back())


FUNCTIONARY_3_2 = Functionary()


def is_functionary(template: str) -> bool:
    return ">>>all\\n" in template or ">>>all\n" in template
