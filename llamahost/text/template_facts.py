"""What a chat template can say, found by rendering small conversations and looking at the text. Knows no model.

A template tells nobody what it understands: one raises on a system message, another leaves it out without a word. So
each question is asked with words that occur nowhere else, and answered by whether they came out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from llamahost.text.template_tools import EXAMPLE, value_of

Turn = dict[str, object]
Draw = Callable[[Sequence[Turn], Sequence[Mapping[str, object]] | None, Mapping[str, object]], str | None]
"""Renders turns with tools and options, to the text or None if the template raised. OverflowError: it runs wild."""

Kept = Literal["never", "in_calls", "always"]
"""Which reasoning of earlier turns is told: none; that since the last user message; all."""

Bare = Literal["missing", "null", "empty"]
"""What a template takes for no content."""

_BARE: tuple[Bare, ...] = ("missing", "null", "empty")


@dataclass(frozen=True, slots=True)
class Switch:
    """The option that turns thinking on and off, with the value for each."""

    name: str
    on: object
    off: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Each is what the template does by itself; what it does not, `template_bridge` makes up for."""

    system: bool = True  # a first message of the system is told
    later_system: bool = True  # so are more of them, anywhere
    developer: bool = False  # a role of its own
    repeated_roles: bool = True  # two turns of one role may follow each other
    text_content: bool = True  # content may be text; otherwise it must be a list of parts
    typed_content: bool = False  # content may be a list of parts
    no_tools_is_empty: bool = False  # without tools the template wants an empty list, not none
    tools: bool = False  # described
    calls: bool = False  # of earlier turns, with their arguments
    results: bool = False
    parallel_calls: bool = False  # several in one turn
    call_example: str = ""  # how a call is written, where calls are told and tools are not described
    text_arguments: bool = False  # arguments as JSON text, not as an object
    any_call_id: bool = True  # otherwise only of nine letters and digits
    bare_calls: Bare = "missing"  # the content of a turn of calls alone
    thinking_switch: Switch | None = None
    effort: str = ""  # the option for how hard to think; empty: there is none
    efforts: tuple[str, ...] = ()  # its values, of those that are in use
    calls_beside_reasoning: bool = True  # a turn of calls may have both content and reasoning
    keeps_reasoning: Kept = "never"

    @property
    def native_tools(self) -> bool:
        """Tools are described, called and answered in the template's own form; otherwise in the generic one."""
        return self.tools and self.calls and self.results

    def caps(self) -> dict[str, bool]:
        """By the names that llama-server has for them."""
        return {
            "supports_system_role": self.system,
            "supports_string_content": self.text_content,
            "supports_typed_content": self.typed_content,
            "supports_tools": self.tools,
            "supports_tool_calls": self.calls,
            "supports_parallel_tool_calls": self.parallel_calls,
            "supports_object_arguments": self.calls and not self.text_arguments,
            "supports_thinking_switch": self.thinking_switch is not None,
            "supports_reasoning_effort": bool(self.effort),
            "supports_preserve_reasoning": self.keeps_reasoning == "always",
        }


_USER, _SYSTEM, _ANSWER, _AGAIN, _RESULT = "zqUser", "zqSystem", "zqAnswer", "zqAgain", "zqResult"
_NAME, _OTHER, _THIRD, _KEY, _VALUE, _THOUGHT = ("zq_look", "zq_hear", "zq_feel", "zq_city", "zqKoeln", "zqThought")
_WORD = "zqWord"  # no value of any option
_SHORT_IDS, _LONG_IDS = ("zqcall001", "zqcall002"), ("call_zq_1_longer", "call_zq_2_longer")
_TOOLS: dict[str, dict[str, object]] = {
    name: {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks.",
            "parameters": {
                "type": "object",
                "properties": {_KEY: {"type": "string", "description": "Where."}},
                "required": [_KEY],
            },
        },
    }
    for name in (_NAME, _OTHER, _THIRD)
}
_SWITCHES = (
    Switch("enable_thinking", True, False),
    Switch("thinking", True, False),
    Switch("thinking_mode", "enabled", "disabled"),
    Switch("thinking_option", "on", "off"),
    Switch("skip_thinking", False, True),
    Switch("reasoning_effort", "high", "none"),
    Switch("reasoning_effort", "high", "no_think"),
    Switch("thinking_budget", -1, 0),
)
_CLOSED = {"add_generation_prompt": False}
_EFFORTS = ("reasoning_effort", "thinking_effort", "reasoning_strength")
_LEVELS = ("none", "no_think", "minimal", "low", "medium", "high", "xhigh", "max")


def probe(draw: Draw, source: str) -> Facts:
    """Ask everything once; about thirty small renderings. What fails where nothing was asked of it is left as usual."""
    with suppress(OverflowError):  # one that runs wild is not asked again
        asker = _Asker(draw, source)
        if asker.is_answered:
            return asker.facts()
    return Facts(developer="developer" in source)


class _Asker:
    """The questions, in the order in which the later ones need the earlier answers."""

    def __init__(self, draw: Draw, source: str) -> None:
        self._draw = draw
        self._source = source
        self._typed = False
        self._none: list[Mapping[str, object]] | None = None
        self.is_answered = self._is_answered()
        self._text_arguments = False
        self._bare: Bare = "missing"

    def _is_answered(self) -> bool:
        """Find the form in which a word of the user comes out."""
        for self._none in (None, []):
            for self._typed in (False, True):
                if self._told([self._said("user", _USER)], _USER) if not self._typed else self._takes_parts():
                    return True
        return False

    def _takes_parts(self) -> bool:
        """Whether the text of parts comes out, and they are not printed as the list that they are."""
        parts = [{"type": "text", "text": _USER}]
        drawn = self._drawn([{"role": "user", "content": parts}]) or ""
        return _USER in drawn and "'type': 'text'" not in drawn and '"type": "text"' not in drawn

    def facts(self) -> Facts:
        user, answer, again = self._said("user", _USER), self._said("assistant", _ANSWER), self._said("user", _AGAIN)
        first, second = self._said("system", _SYSTEM), self._said("system", _RESULT)
        system = self._told([first, user], _SYSTEM, _USER)
        tools = any(self._told(head, _NAME, _OTHER, tools=(_NAME, _OTHER)) for head in ([user], [first, user]))
        calls = self._find_calls()
        switch = self._switch()
        effort, efforts = self._effort(switch)
        return Facts(
            system=system,
            later_system=system
            and self._told([first, user, answer, second, again], _SYSTEM, _RESULT, _AGAIN)
            and self._told([first, second, user], _SYSTEM, _RESULT, _USER),
            developer="developer" in self._source and self._told([self._said("developer", _SYSTEM), user], _SYSTEM),
            repeated_roles=not self._told([user, answer, again], _USER, _ANSWER, _AGAIN)
            or (
                self._told([user, again], _USER, _AGAIN)
                and self._told([user, answer, self._said("assistant", _RESULT), again], _ANSWER, _RESULT)
            ),
            text_content=not self._typed,
            typed_content=self._typed or self._takes_parts(),
            no_tools_is_empty=self._none is not None,
            tools=tools,
            calls=calls,
            results=self._told(self._calling([_NAME]), _RESULT, tools=[_THIRD]),
            call_example=self._call_example() if calls and not tools else "",
            parallel_calls=calls and self._called([_NAME, _OTHER], _RESULT, _AGAIN),
            text_arguments=self._text_arguments,
            any_call_id=not calls or self._called([_NAME], ids=_LONG_IDS),
            calls_beside_reasoning=not calls
            or self._drawn(self._calling([_NAME], content=_ANSWER)) is None
            or self._drawn(self._calling([_NAME], content=_ANSWER, reasoning=_THOUGHT)) is not None,
            bare_calls=self._bare,
            thinking_switch=switch,
            effort=effort,
            efforts=efforts,
            keeps_reasoning=self._kept(),
        )

    def _said(self, role: str, text: str, **more: object) -> Turn:
        return {"role": role, "content": [{"type": "text", "text": text}] if self._typed else text, **more}

    def _drawn(
        self, turns: Sequence[Turn], options: Mapping[str, object] | None = None, *, tools: Sequence[str] = ()
    ) -> str | None:
        return self._draw(turns, [_TOOLS[name] for name in tools] or self._none, options or {})

    def _told(self, turns: Sequence[Turn], *words: str, tools: Sequence[str] = ()) -> bool:
        drawn = self._drawn(turns, tools=tools)
        return drawn is not None and all(word in drawn for word in words)

    def _calling(
        self, names: Sequence[str], *, content: str | None = None, ids: Sequence[str] = (), reasoning: str = ""
    ) -> list[Turn]:
        """A conversation that ends with the results of these calls."""
        ids = ids or _SHORT_IDS
        arguments: object = f'{{"{_KEY}": "{_VALUE}"}}' if self._text_arguments else {_KEY: _VALUE}
        turn: Turn = {"role": "assistant"}
        if content is not None or self._bare == "empty":
            turn = self._said("assistant", content or "")
        elif self._bare == "null":
            turn["content"] = None
        turn["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call_id, name in zip(ids, names, strict=False)
        ]
        if reasoning:
            turn |= {"reasoning_content": reasoning, "thinking": reasoning}
        results = [
            self._said("tool", text, tool_call_id=call_id, name=name)
            for call_id, name, text in zip(ids, names, (_RESULT, _AGAIN), strict=False)
        ]
        return [self._said("user", _USER), turn, *results]

    def _called(self, names: Sequence[str], *words: str, content: str | None = None, ids: Sequence[str] = ()) -> bool:
        """Whether these calls come out, and the words with them. Another tool is described, so that only calls tell."""
        turns = self._calling(names, content=content, ids=ids)
        return self._told(turns, *names, _VALUE, *words, tools=[_THIRD])

    def _find_calls(self) -> bool:
        """Find the form of a call that comes out: not quoted twice, and nothing as Python writes it."""
        for self._text_arguments in (False, True):
            for self._bare in _BARE:
                drawn = self._drawn(self._calling([_NAME]), tools=[_THIRD]) or ""
                told = drawn.partition(_USER)[2]  # before it, the tools may be described in any way
                is_odd = f"'{_KEY}'" in told or f'\\"{_KEY}' in told or "None" in told
                if _NAME in told and _VALUE in told and not is_odd:
                    return True
        self._text_arguments, self._bare = False, "empty"  # the least that can go wrong, to ask for results
        return False

    def _call_example(self) -> str:
        """What stands where a plain answer would, up to what follows both."""
        user = self._said("user", _USER)
        name, arguments = EXAMPLE
        function = {"name": name, "arguments": arguments if self._text_arguments else value_of(arguments)}
        call = {"id": _SHORT_IDS[0], "type": "function", "function": function}
        turn = {**self._calling([_NAME])[1], "tool_calls": [call]}
        plain = self._drawn([user, self._said("assistant", _ANSWER)], _CLOSED) or ""
        drawn = self._drawn([user, turn], _CLOSED) or ""
        ending = plain.partition(_ANSWER)[2]
        at = next((k for k, (a, b) in enumerate(zip(plain, drawn, strict=False)) if a != b), len(drawn))
        return drawn[at:].removesuffix(ending).strip()

    def _switch(self) -> Switch | None:
        turns = [self._said("user", _USER)]
        for switch in _SWITCHES:
            if switch.name in self._source:
                on = self._drawn(turns, {switch.name: switch.on})
                off = self._drawn(turns, {switch.name: switch.off})
                is_echoed = _WORD in (self._drawn(turns, {switch.name: _WORD}) or "")
                if on is not None and off is not None and on != off and not is_echoed:
                    return switch
        return None

    def _effort(self, switch: Switch | None) -> tuple[str, tuple[str, ...]]:
        turns = [self._said("user", _USER)]
        thinking = {switch.name: switch.on} if switch else {}
        for name in _EFFORTS:
            if name in self._source:
                drawn = {level: self._drawn(turns, {**thinking, name: level}) for level in _LEVELS}
                known = tuple(level for level, text in drawn.items() if text is not None)
                if len({drawn[level] for level in known}) > 1:
                    return name, known
        return "", ()

    def _kept(self) -> Kept:
        thought = {"reasoning_content": _THOUGHT, "thinking": _THOUGHT}
        turns = (self._said("user", _USER), self._said("assistant", _ANSWER, **thought), self._said("user", _AGAIN))
        if self._told(turns, _THOUGHT):
            return "always"
        return "in_calls" if self._told(self._calling([_NAME], reasoning=_THOUGHT), _THOUGHT) else "never"
