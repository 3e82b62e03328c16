"""gpt-oss: every message has a header, which names its channel and whom it goes to. A Format of its own.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…
    <|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>

Thoughts are on the channel `analysis`, words on `final` and, before calls, on `commentary`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llamahost.core.work import Constraint
from llamahost.text.formats.calls import Calls, NewId
from llamahost.text.formats.calls import new_id as as_openai
from llamahost.text.formats.format import Asked, Bounds, Reading
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.json_text import read_value
from llamahost.text.formats.script import Markers, Script, Steps
from llamahost.text.splitter import Splitter

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_BEGINS = (f"{_CHANNEL}commentary to=functions.", f"{_CHANNEL}analysis to=functions.")
_QUIET = ((f"{_CHANNEL}analysis{_MESSAGE}", "<|end|>"),)
_BODY_ENDS = Markers(*_ENDS, _START, _CHANNEL)
_HEADER = re.compile(r"[^<]*")
_TO = re.compile(r"\bto=([^\s<]+)")
MAX_HEADER = 512
"""Characters between two marks of a header; what goes on for longer is text."""


@dataclass(frozen=True, slots=True)
class Harmony:
    name: str = "harmony"
    calls: bool = True
    thought: tuple[str, str] = _QUIET[0]

    def bounds(self, asked: Asked) -> Bounds:
        """The header of the next message is begun, since a model that was cut short would think on in another."""
        closing = f"<|end|>{_START}assistant{_CHANNEL}" + ("" if asked.tools else f"final{_MESSAGE}")
        return Bounds(f"{_CHANNEL}analysis", "<|end|>", closing, recurs=True)

    def markers(self, asked: Asked) -> frozenset[str]:
        return frozenset((_START, _CHANNEL, _CONSTRAIN, _MESSAGE, *_ENDS))

    def begins_thinking(self, prompt: str) -> bool:
        return prompt.endswith("<|channel|>analysis<|message|>")

    def splitter(self, asked: Asked, new_id: NewId | None = None) -> Splitter | None:
        return Reading(lambda script, calls: _Reader(asked, script, calls), asked, new_id or as_openai)

    def constraint(self, asked: Asked, rules: Rules, *, is_required: bool, words: str = "") -> Constraint:
        typed = f'(" "? {rules.text(_CONSTRAIN)} "json" | " json")? {rules.text(_MESSAGE)}'
        calls = [f"{literal(tool.name)} {typed} {rules.arguments(tool, k)}" for k, tool in enumerate(asked.tools)]
        call = rules.add("call", *calls) if calls else ""
        if not is_required and not words:
            rules.add("start", call)
            return Constraint(grammar=rules.grammar(), triggers=_BEGINS, quiet=_QUIET)
        messages = [f"{rules.text(_BEGINS[0])} {call}"] if calls else []
        if words and not is_required:
            messages.append(f"{rules.text(f'{_CHANNEL}final{_MESSAGE}')} {words}")
        message = rules.add("message", *messages)
        if asked.is_thinking:
            rules.add("start", f"{rules.text(_START + 'assistant')} {message}")
            return Constraint(grammar=rules.grammar(), quiet=_QUIET, starts_quiet=True)
        thought = rules.up_to("thought", "<|end|>")
        head = rules.text(_QUIET[0][0])
        rules.add("start", f"({head} {thought} {rules.text(_START + 'assistant')})? {message}")
        return Constraint(grammar=rules.grammar())


@dataclass(frozen=True, slots=True)
class _Header:
    channel: str
    recipient: str


class _Reader:
    def __init__(self, asked: Asked, script: Script, calls: Calls) -> None:
        self._asked = asked
        self._script = script
        self._calls = calls
        self._last = ""  # the channel of the message before
        self.is_thinking = asked.is_thinking

    def read(self) -> Steps[None]:
        script = self._script
        if self.is_thinking:
            yield from self._think("")
        while not self._calls.is_full:
            script.keep()
            yield from script.spaces()
            header = yield from self._header()
            if header is None:
                script.back()
                if not (yield from self._words()):
                    return
            else:
                script.drop()
                yield from self._message(header)
            if not (yield from script.peek()):
                return

    def _header(self) -> Steps[_Header | None]:
        """Up to the mark of its message; None where there is none."""
        script = self._script
        started = yield from script.take(_START)
        written = [_START] if started else []
        channel = ""
        before = ""
        while True:
            piece = yield from script.run_of(_HEADER, MAX_HEADER)
            if before == _CHANNEL:
                channel = piece.split()[0] if piece.strip() else ""
            written.append(piece)
            if not started and len(written) == 1 and piece.strip() and not piece.strip().startswith("to="):
                return None
            before = yield from script.take_one((_CHANNEL, _CONSTRAIN, _MESSAGE))
            if before == _MESSAGE:
                break
            if not before or len(written) > 8:
                return None
            written.append(before)
        head = "".join(written)
        if not head.strip():
            return None
        recipient = _TO.search(head)
        return _Header(channel, recipient.group(1) if recipient else "")

    def _message(self, header: _Header) -> Steps[None]:
        script, calls = self._script, self._calls
        name = header.recipient.removeprefix("functions.")
        if name in calls.names:
            yield from script.spaces()
            if (yield from script.peek()) == "{":
                calls.open(name)
                if (yield from read_value(script, calls.tell)) and not calls.is_full:
                    yield from script.spaces()
                    yield from script.take_one(_ENDS)
                self._last = "tool"
                return
        if header.channel == "analysis":
            self.is_thinking = True
            yield from self._think(f"{_CHANNEL}analysis{_MESSAGE}")
        else:
            yield from self._words(is_new=True)

    def _think(self, head: str) -> Steps[None]:
        script = self._script
        if self._asked.tells_thoughts:
            if self._last == "analysis":
                script.tell("\n\n", "reasoning")
            ended = yield from script.until(_BODY_ENDS, lambda text: script.tell(text, "reasoning"), trims=False)
        else:
            script.tell(head)
            ended = yield from script.until(_BODY_ENDS, script.tell, trims=False)
            script.tell(ended if ended in _ENDS else "")
        self._put_back(ended)
        self._last = "analysis"
        self.is_thinking = False

    def _words(self, *, is_new: bool = False) -> Steps[bool]:
        """Text up to the next mark; False where the text is over."""
        script = self._script
        if is_new and self._last == "words":
            script.tell("\n\n")
        ended = yield from script.until(_BODY_ENDS, script.tell, trims=False)
        self._put_back(ended)
        self._last = "words"
        if not is_new and ended in (_START, _CHANNEL):
            # What this mark begins was found to be no header, or will be found to be one.
            script.keep()
            header = yield from self._header()
            if header is None:
                script.back()
                script.tell(ended)
                script.at += len(ended)
            else:
                script.drop()
                yield from self._message(header)
        return bool(ended)

    def _put_back(self, ended: str) -> None:
        if ended in (_START, _CHANNEL):
            self._script.at -= len(ended)


HARMONY = Harmony()


def is_harmony(template: str) -> bool:
    return _CHANNEL in template and _MESSAGE in template
