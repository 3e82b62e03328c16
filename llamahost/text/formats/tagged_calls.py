"""Read calls whose arguments stand in tags, one by one, and tell them as JSON by what the schema says. Knows no family.

A value that the schema says is a string is told as it comes; any other when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llamahost.text.formats.calls import Arguments, Calls, new_id
from llamahost.text.formats.script import Markers, Outcome, Script, Steps


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """A Family: `call` name `named`, then any number of `key` key `keyed` value `valued`, then `close`.

    `opens` are all that calls may begin with: an opening of the section that holds them, or `call` by itself; where
    `call` is empty the name follows the opening at once. With `trims` a line break at each end of a value is a mark's.
    """

    name: str
    is_spoken: Callable[[str], bool]
    opens: tuple[str, ...]
    key: str
    keyed: str
    valued: str
    close: str
    call: str = ""
    named: str = ""
    value: str = ""  # between `keyed` and the value, after white space
    string: tuple[str, ...] = ()  # what `keyed` may be instead, for a value that is a string, and for one that is none
    end: str = ""  # of the section
    trims: bool = False
    tokens: tuple[str, ...] = ()  # control tokens among all these
    new_id: Callable[[], str] = new_id
    begins_bare: bool = False
    _valued: Markers = field(init=False, repr=False, compare=False)
    _keyed: Markers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends = ("\n" + self.valued, self.valued) if self.trims else (self.valued,)
        object.__setattr__(self, "_valued", Markers(*ends))
        object.__setattr__(self, "_keyed", Markers(*filter(None, (*self.string, self.keyed))))

    @property
    def markers(self) -> tuple[str, ...]:
        return self.tokens or (*self.opens, self.close, *filter(None, (self.end,)))

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        if opened != self.call and self.call:
            yield from script.spaces()
            if not (yield from script.take(self.call)):
                return "no"
        outcome = yield from self._read_call(script, calls)
        while outcome == "whole" and self.end and not calls.is_full:
            yield from script.spaces()
            if (yield from script.take(self.end)) or not self.call:
                break
            script.keep()
            if not (yield from script.take(self.call)):
                break
            outcome = yield from self._read_call(script, calls)
            if outcome == "no":
                script.back()
                return "broken"
        return outcome

    def _read_call(self, script: Script, calls: Calls) -> Steps[Outcome]:
        if not self.call:
            yield from script.spaces()
        name = yield from script.take_one(calls.names)
        if not name:
            return "no"
        if self.named:
            if not (yield from script.take(self.named)):
                return "no"
            calls.open(name)
        yield from script.spaces()
        arguments = Arguments(calls, name)
        while True:
            mark = yield from script.take_one((self.key, self.close))
            if not mark and script.is_kept:
                return "no"  # only a name so far, which anything may follow
            if not arguments.n and script.is_kept:
                calls.open(name)
            if mark == self.close:
                arguments.close()
                return "whole"
            if not mark:
                if (yield from script.peek()):
                    arguments.close()
                return "broken"
            if not (yield from self._read_argument(script, arguments)):
                return "broken"
            yield from script.spaces()

    def _read_argument(self, script: Script, arguments: Arguments) -> Steps[bool]:
        """False where the text ends within."""
        pieces: list[str] = []
        keyed = yield from script.until(self._keyed, pieces.append, trims=False)
        if not keyed:
            return False
        key = "".join(pieces).strip()
        if self.value:
            yield from script.spaces()
            if not (yield from script.take(self.value)):
                return False
        if self.trims:
            yield from script.take("\n")
        arguments.key(key)
        is_string = keyed == self.string[0] if keyed in self.string else arguments.is_text(key)
        if is_string:
            arguments.begin_text()
            if not (yield from script.until(self._valued, arguments.text, trims=False)):
                return False
            arguments.end_text()
            return True
        written: list[str] = []
        if not (yield from script.until(self._valued, written.append, trims=False)):
            return False
        arguments.value(key, "".join(written))
        return True
