"""Muse Glimmer: every message has a head, whom it goes to; the prompt has begun the first one's. A Format of its own.

 to=self<|message|>…<|eom|><|start|>assistant to=user<|message|>…<|eot|>
 to=get_weather<|message|><atem:function_calls>
<atem:invoke name="get_weather">
<atem:parameter name="city">Paris</atem:parameter>
</atem:invoke>
</atem:function_calls><|eot|>

Thoughts go to `self`, words to `user`; what looks like a call in either is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llamahost.core.work import Constraint
from llamahost.text.formats.calls import Calls, NewId
from llamahost.text.formats.calls import new_id as as_openai
from llamahost.text.formats.format import Asked, Bounds, Reading
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.script import Markers, Script, Steps
from llamahost.text.formats.tagged_calls import TaggedCalls
from llamahost.text.splitter import Splitter

_START, _MESSAGE, _EOM, _EOT = "<|start|>", "<|message|>", "<|eom|>", "<|eot|>"
_BEGUN = f"{_START}assistant"
_SELF, _USER = f" to=self{_MESSAGE}", f" to=user{_MESSAGE}"
_ENDS = Markers(_EOM, _EOT)
_WORDS_END = Markers(_EOM, _EOT, _START)
_TO = re.compile(r"[^\s<]*")
MAX_NAME = 256

_CALLS = TaggedCalls(
    name="muse",
    is_spoken=lambda template: False,
    opens=("<atem:function_calls>",),
    call='<atem:invoke name="',
    named='">',
    key='<atem:parameter name="',
    keyed='">',
    valued="</atem:parameter>",
    close="</atem:invoke>",
    end="</atem:function_calls>",
)


@dataclass(frozen=True, slots=True)
class Muse:
    name: str = "muse"
    calls: bool = True
    thought: tuple[str, str] = (_SELF.strip(), _EOM)

    def bounds(self, asked: Asked) -> Bounds:
        closing = f"{_EOM}{_BEGUN}" + ("" if asked.tools else _USER)
        return Bounds(_SELF.strip(), _EOM, closing, recurs=True)

    def markers(self, asked: Asked) -> frozenset[str]:
        return frozenset((_START, _MESSAGE, _EOM, _EOT))

    def begins_thinking(self, prompt: str) -> bool:
        return prompt.endswith(_SELF)

    def splitter(self, asked: Asked, new_id: NewId | None = None) -> Splitter | None:
        return Reading(lambda script, calls: _Reader(asked, script, calls), asked, new_id or as_openai)

    def constraint(self, asked: Asked, rules: Rules, *, is_required: bool, words: str = "") -> Constraint:
        calls = ""
        if asked.tools:
            calls = f"{rules.text(_CALLS.begins)} {_CALLS.write(rules, asked.tools, asked.n_calls)}"
        if not is_required and not words:
            rules.add("start", calls)
            triggers = tuple(f"to={tool.name}{_MESSAGE}" for tool in asked.tools)
            return Constraint(grammar=rules.grammar(), triggers=triggers, repeats=True, quiet=(self.thought,))
        messages = [f"{literal(f' to={tool.name}')} {rules.text(_MESSAGE)} {calls}" for tool in asked.tools]
        if words and not is_required:
            messages.append(f"{rules.text(_USER)} {words}")
        message = rules.add("message", *messages)
        if asked.is_thinking:
            rules.add("start", f"{rules.text(_BEGUN)} {message}")
            return Constraint(grammar=rules.grammar(), quiet=(self.thought,), starts_quiet=True)
        thought = rules.up_to("thought", _EOM)
        rules.add("start", f"({rules.text(_SELF)} {thought} {rules.text(_BEGUN)})? {message}")
        return Constraint(grammar=rules.grammar())


class _Reader:
    def __init__(self, asked: Asked, script: Script, calls: Calls) -> None:
        self._asked = asked
        self._script = script
        self._calls = calls
        self._last = ""  # what the message before was
        self.is_thinking = asked.is_thinking

    def read(self) -> Steps[None]:
        script = self._script
        if self.is_thinking:
            yield from self._think("")
        while not self._calls.is_full and (yield from script.peek()):
            script.keep()
            recipient = yield from self._head()
            if recipient is None:
                script.back()
                yield from self._words()
                continue
            script.drop()
            if recipient == "self":
                self.is_thinking = True
                yield from self._think(_SELF)
            elif recipient in self._calls.names:
                yield from self._call()
            else:
                yield from self._words(is_new=True)

    def _head(self) -> Steps[str | None]:
        """Whom the message goes to; None where there is no head."""
        script = self._script
        yield from script.spaces()
        yield from script.take(_BEGUN)
        yield from script.spaces()
        if not (yield from script.take("to=")):
            return None
        recipient = yield from script.run_of(_TO, MAX_NAME)
        return recipient if recipient and (yield from script.take(_MESSAGE)) else None

    def _think(self, head: str) -> Steps[None]:
        script = self._script
        if self._asked.tells_thoughts:
            if self._last == "thought":
                script.tell("\n\n", "reasoning")
            yield from script.until(_ENDS, lambda text: script.tell(text, "reasoning"), trims=False)
        else:
            script.tell(head)
            script.tell((yield from script.until(_ENDS, script.tell, trims=False)))
        self._last = "thought"
        self.is_thinking = False

    def _words(self, *, is_new: bool = False) -> Steps[None]:
        """Up to the end of the message, or to where another may begin."""
        script = self._script
        if is_new and self._last == "words":
            script.tell("\n\n")
        if not is_new and (yield from script.take(_START)):  # it was found to begin nothing
            script.tell(_START)
        ended = yield from script.until(_WORDS_END, script.tell, trims=False)
        if ended == _START:
            script.at -= len(_START)
        self._last = "words"

    def _call(self) -> Steps[None]:
        script = self._script
        script.keep()
        yield from script.spaces()
        opened = _CALLS.begins
        if not (yield from script.take(opened)):
            script.back()
            yield from self._words(is_new=True)
            return
        outcome = yield from _CALLS.read(opened, script, self._calls)
        if outcome == "no":
            script.back()
            yield from self._words(is_new=True)
        elif outcome == "whole" and not self._calls.is_full:
            yield from script.spaces()
            yield from script.take_one((_EOM, _EOT))
        self._last = "call"


MUSE = Muse()


def is_muse(template: str) -> bool:
    return "<atem:function_calls>" in template and _MESSAGE in template
