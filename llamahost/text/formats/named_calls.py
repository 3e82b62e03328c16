"""Read calls that are a name among marks, and then one JSON object of arguments. Knows no family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llamahost.core.messages import Tool
from llamahost.text.formats.calls import Calls, new_id
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.json_text import read_value
from llamahost.text.formats.script import Outcome, Script, Steps


@dataclass(frozen=True, slots=True)
class NamedCalls:
    """A Family: `open` `before` name `after` {…} `close`, where any but the name may stand in several ways, or not.

    `opens` are all that calls may begin with: an opening of the section that holds them, or of a call by itself.
    """

    name: str
    is_spoken: Callable[[str], bool]
    opens: tuple[str, ...]
    call: str  # the one of `opens` that begins a single call
    after: tuple[str, ...]
    before: tuple[str, ...] = ()
    fence: tuple[str, ...] = ()  # between `after` and the object, and again behind it: of Markdown
    close: tuple[str, ...] = ()
    end: str = ""  # of the section
    written: tuple[str, str, str] = ("", "", "")  # as the model itself writes what is before, after and behind
    tokens: tuple[str, ...] = ()  # control tokens, where they are not just the marks
    new_id: Callable[[], str] = new_id
    begins_bare: bool = False

    @property
    def begins(self) -> str:
        return self.opens[0]

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        before = rules.text(self.written[0])
        calls = [
            f"{before} {literal(tool.name)} {rules.text(self.written[1])} {rules.arguments(tool, k)} "
            f"{rules.text(self.written[2])}"
            for k, tool in enumerate(tools)
        ]
        call = rules.add("call", *calls)
        if self.opens[0] == self.call:
            return rules.add("calls", call)
        opened = f"NL {rules.text(self.call)} {call}"
        more = "" if n_calls == 1 else f" ({opened})*"
        return rules.add("calls", f"{opened}{more} NL {rules.text(self.end)}")

    @property
    def markers(self) -> tuple[str, ...]:
        return self.tokens or tuple(filter(None, (*self.opens, *self.before, *self.after, *self.close, self.end)))

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        if opened != self.call:
            yield from script.spaces()
            if not (yield from script.take(self.call)):
                return "no"
        outcome = yield from self._read_call(script, calls)
        if outcome == "whole" and self.end and not calls.is_full:
            # The next call of the section begins as the first did; whoever looks for marks will find it.
            yield from script.spaces()
            yield from script.take(self.end)
        return outcome

    def _read_call(self, script: Script, calls: Calls) -> Steps[Outcome]:
        yield from script.spaces()
        yield from script.take_one(self.before)
        name = yield from script.take_one(calls.names)
        yield from script.spaces()
        if not name or not (yield from script.take_one(self.after)):
            return "no"
        if not (yield from read_arguments(script, calls, name, self.fence)):
            return "no" if script.is_kept else "broken"
        if self.close and not calls.is_full:
            yield from script.spaces()
            yield from script.take_one(self.close)
        return "whole"


def read_arguments(script: Script, calls: Calls, name: str, fence: tuple[str, ...] = (), id_: str = "") -> Steps[bool]:
    """Tell of this call and its object, fenced or not. False where there is none, or a broken one."""
    yield from script.spaces()
    yield from script.take_one(fence)
    yield from script.spaces()
    if (yield from script.peek()) != "{" or not calls.open(name, id_):
        return False
    if not (yield from read_value(script, calls.tell)):
        return False
    if fence and not calls.is_full:
        yield from script.spaces()
        yield from script.take_one(fence)
    return True
