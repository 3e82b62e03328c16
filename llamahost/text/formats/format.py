"""Split an answer into thoughts, words and calls, by how its model writes them. Knows no tokens and no template.

Laws: what is none of a format's own marks is text, and what does not read as a call is text, marks and all: nothing a
model writes is an error, and none of it is lost. A call inside of thoughts is a thought. White space around marks is
theirs. Where a call turns out broken after its name was told, what was read of it stays, and the rest is text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from llamahost.core.messages import Tool
from llamahost.core.work import Constraint
from llamahost.text.formats.calls import Calls, NewId, new_id
from llamahost.text.formats.grammar import Held, Rules, Writes, calls_constraint
from llamahost.text.formats.script import Markers, Outcome, Script, Steps
from llamahost.text.splitter import Segment, Splitter


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request wants of its answers' form."""

    tools: tuple[Tool, ...] = ()  # that may be called
    n_calls: int | None = None  # at most so many, then the answer is done
    tells_thoughts: bool = True  # on a channel of their own; else they stay text, marks and all
    may_think: bool = True  # the request does not say that it must not
    is_thinking: bool = False  # the prompt has left thoughts open, and the answer begins within them


@dataclass(frozen=True, slots=True)
class Bounds:
    """Thoughts are between `open` and `close`; `closing` is what a model writes that ends them and goes on."""

    open: str
    close: str
    closing: str
    recurs: bool = False


class Format(Protocol):
    """How a model writes its answers. Never changes; one object serves all of them."""

    @property
    def name(self) -> str: ...

    @property
    def calls(self) -> bool:
        """Whether its calls of functions can be told apart."""
        ...

    @property
    def thought(self) -> tuple[str, str] | None:
        """The marks around thoughts."""
        ...

    def bounds(self, asked: Asked) -> Bounds | None:
        """How thoughts begin and are ended, for who limits them; None where they cannot be told apart."""
        ...

    def markers(self, asked: Asked) -> frozenset[str]:
        """Every mark to be read that may be one control token, of which a reply would else show nothing."""
        ...

    def begins_thinking(self, prompt: str) -> bool:
        """Whether the answer to this prompt begins within thoughts."""
        ...

    def splitter(self, asked: Asked, new_id: NewId | None = None) -> Splitter | None:
        """None where all is text."""
        ...

    def constraint(self, asked: Asked, rules: Rules, *, is_required: bool, words: str = "") -> Constraint | None:
        """What holds calls to their form and their functions' schemas: those that the model begins, or one at once.

        With `words`, a rule, what is said is held to it where no call is made; without tools, it alone is. None where
        this form cannot be held to. Raises InvalidRequest. The rules are written into.
        """
        ...


@dataclass(frozen=True, slots=True)
class Thinking:
    """How thoughts are marked: at the beginning of an answer, or (`recurs`) anywhere in it.

    `dropped` are marks around the words that follow, and belong to nothing; `tokens` are the control tokens in all
    these, where they are not just the marks. `closing` is the closing mark with the line breaks that it is used to.
    """

    open: str
    close: str
    recurs: bool = False
    dropped: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    closing: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        return self.tokens or (self.open, self.close, *self.dropped)


class Family(Protocol):
    """How one family writes calls. Never changes."""

    @property
    def name(self) -> str: ...

    @property
    def opens(self) -> tuple[str, ...]:
        """The marks that begin calls, wherever in the text they stand."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Every mark that may be one control token."""
        ...

    @property
    def begins_bare(self) -> bool:
        """Whether calls may also begin the words, without a mark."""
        ...

    def is_spoken(self, template: str) -> bool:
        """Whether a chat template's source is of this family."""
        ...

    def read(self, opened: str, script: Script, calls: Calls) -> Steps[Outcome]:
        """Calls, after one of the `opens`; or at the very beginning of the words, where `opened` is empty."""
        ...

    def new_id(self) -> str:
        """An id of a call, as the family's template takes it back."""
        ...


@dataclass(frozen=True, slots=True)
class Talk:
    """A Format: thoughts first, then words with calls among them."""

    family: Family | None = None
    thinking: Thinking | None = None

    @property
    def name(self) -> str:
        return self.family.name if self.family else "plain"

    @property
    def calls(self) -> bool:
        return self.family is not None

    @property
    def thought(self) -> tuple[str, str] | None:
        return None if self.thinking is None else (self.thinking.open.strip(), self.thinking.close.strip())

    def bounds(self, asked: Asked) -> Bounds | None:
        if self.thinking is None:
            return None
        open_, close = self.thinking.open.strip(), self.thinking.close.strip()
        return Bounds(open_, close, self.thinking.closing or close, self.thinking.recurs)

    def markers(self, asked: Asked) -> frozenset[str]:
        of_calls = self.family.markers if self.family and asked.tools else ()
        of_thoughts = self.thinking.markers if self.thinking else ()
        return frozenset((*of_thoughts, *of_calls))

    def begins_thinking(self, prompt: str) -> bool:
        return self.thinking is not None and prompt.rstrip().endswith(self.thinking.open.rstrip())

    def splitter(self, asked: Asked, new_id: NewId | None = None) -> Splitter | None:
        family = self.family if asked.tools else None
        if family is None and (self.thinking is None or not asked.tells_thoughts):
            return None
        make_id = new_id or (family.new_id if family else _no_id)
        return Reading(lambda script, calls: _Reader(family, self.thinking, asked, script, calls), asked, make_id)

    def constraint(self, asked: Asked, rules: Rules, *, is_required: bool, words: str = "") -> Constraint | None:
        family: object = self.family if asked.tools else None
        if asked.tools and not isinstance(family, Writes):
            return None
        thought = self.thought
        if words and not (asked.is_thinking or (asked.tells_thoughts and asked.may_think)):
            thought = None  # what is thought would be among the words
        held = Held(asked.tools, is_required, asked.n_calls, asked.is_thinking, thought, words)
        return calls_constraint(family if isinstance(family, Writes) else None, held, rules)


def _no_id() -> str:
    raise AssertionError("nothing may be called")


PLAIN = Talk()
"""All is text."""


class Reads(Protocol):
    """What reads one answer. Owned by its splitter."""

    is_thinking: bool

    def read(self) -> Steps[None]: ...


class Reading:
    """A splitter made of a reader. Owned by one reply."""

    __slots__ = ("_calls", "_is_over", "_reader", "_script", "_steps")

    def __init__(self, make: Callable[[Script, Calls], Reads], asked: Asked, new_id: NewId = new_id) -> None:
        self._script = Script()
        self._calls = Calls(self._script, asked.tools, asked.n_calls, new_id)
        self._is_over = False
        self._reader = make(self._script, self._calls)
        self._steps = self._reader.read()
        self._run()

    @property
    def n_calls(self) -> int:
        return self._calls.n

    @property
    def is_thinking(self) -> bool:
        return self._reader.is_thinking

    @property
    def is_done(self) -> bool:
        return self._is_over and not self._script.is_over

    def feed(self, text: str) -> list[Segment]:
        self._script.feed(text)
        return self._run()

    def flush(self) -> list[Segment]:
        self._script.is_over = True
        return self._run()

    def _run(self) -> list[Segment]:
        if not self._is_over:
            self._is_over = next(self._steps, True) is True
        script = self._script
        told, script.told = script.told, []
        return told


@dataclass(slots=True)
class _Reader:
    family: Family | None
    thinking: Thinking | None
    asked: Asked
    script: Script
    calls: Calls
    is_thinking: bool = False
    marks: Markers = field(init=False)

    def __post_init__(self) -> None:
        self.is_thinking = self.asked.is_thinking and self.thinking is not None
        marks = list(self.family.opens if self.family else ())
        if self.thinking is not None and self.asked.tells_thoughts:
            marks += self.thinking.dropped
        if self.thinking is not None and self.thinking.recurs:
            marks.append(self.thinking.open)
        self.marks = Markers(*dict.fromkeys(marks))

    def read(self) -> Steps[None]:
        if self.thinking is not None:
            yield from self._begin(self.thinking)
        if self.family is not None and self.family.begins_bare:
            self.script.keep()
            yield from self._call("")
        while True:
            if self.calls.is_full:
                return
            opened = yield from self.script.until(self.marks, self.script.tell)
            if not opened:
                return
            yield from self._opened(opened)

    def _begin(self, thinking: Thinking) -> Steps[None]:
        """Thoughts at the beginning. A mark that the prompt has written already may be written again."""
        script, mark = self.script, thinking.open.strip()
        script.keep()
        before = yield from script.spaces()
        if (yield from script.take(mark)):
            self.is_thinking = True
            if not self.asked.tells_thoughts:
                script.tell(before + mark)
            script.drop()
            yield from self._think(thinking)
            return
        script.back()
        if self.is_thinking:
            yield from self._think(thinking)

    def _think(self, thinking: Thinking) -> Steps[None]:
        """Up to the closing mark."""
        script, mark = self.script, Markers(thinking.close.strip())
        if self.asked.tells_thoughts:
            yield from script.spaces()
            yield from script.until(mark, lambda text: script.tell(text, "reasoning"))
            script.drop()
            self.is_thinking = False
            yield from script.spaces()
        else:
            script.tell((yield from script.until(mark, script.tell, trims=False)))
            self.is_thinking = False

    def _opened(self, opened: str) -> Steps[None]:
        thinking = self.thinking
        if thinking is not None and opened == thinking.open:
            self.script.drop()
            self.is_thinking = True
            if not self.asked.tells_thoughts:
                self.script.tell(opened)
            yield from self._think(thinking)
        elif thinking is not None and opened in thinking.dropped:
            self.script.drop()
            yield from self.script.spaces()
        else:
            yield from self._call(opened)

    def _call(self, opened: str) -> Steps[None]:
        """Calls, or else text: the mark is told, and what follows it is read once more."""
        assert self.family is not None
        script = self.script
        outcome = yield from self.family.read(opened, script, self.calls)
        if outcome == "no":
            script.tell(script.back())
        elif outcome == "whole":
            script.drop()
            if not self.calls.is_full:
                yield from script.spaces()
        else:
            script.drop()
