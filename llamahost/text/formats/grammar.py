"""Write calls as a grammar, in llguidance's Lark. Knows how marks and values are written there, and no family.

A mark that is a control token of the model must be that token, as text never is one; any other text is
spelled by whatever tokens. So a grammar is of one vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Tool
from llamahost.core.work import Constraint
from llamahost.text.constraint import regex
from llamahost.text.schema_relaxed import relaxed

Embed = Callable[[object, str], str]
"""A JSON Schema as a symbol of a grammar; `str` is the field it stands in. Raises InvalidRequest on what cannot be."""


@dataclass(slots=True)
class Rules:
    """A grammar as it is written. Owned by who writes it."""

    marks: Mapping[str, int]  # control tokens that are marks, by their spelling
    embed: Embed
    is_loose: bool = False  # arguments are held to being an object alone, but of strict tools
    _lines: list[str] = field(default_factory=list)
    _pattern: re.Pattern[str] | None = None

    def __post_init__(self) -> None:
        longest_first = sorted(filter(None, self.marks), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def add(self, name: str, *alternatives: str) -> str:
        self._lines.append(f"{name}: {' | '.join(alternatives)}")
        return name

    def text(self, text: str) -> str:
        """This very text: its marks as tokens, the rest as strings."""
        symbols: list[str] = []
        at = 0
        for found in self._pattern.finditer(text) if self._pattern else ():
            symbols.append(literal(text[at : found.start()]))
            symbols.append(f"<[{self.marks[found.group()]}]>")
            at = found.end()
        symbols.append(literal(text[at:]))
        return " ".join(filter(None, symbols))

    def up_to(self, name: str, mark: str) -> str:
        """A rule of that name: any text, and the first such mark behind it."""
        if mark in self.marks:
            return self.add(name, rf"/(?s:.*)/ {self.text(mark)}")
        return self.add(f"{name}[suffix={json.dumps(mark, ensure_ascii=False)}]", r"/(?s:.*)/") and name

    def bounded(
        self, name: str, mark: str, n_min: int, n_max: int | None, gap: str = "", patterns: Sequence[str] = ()
    ) -> str:
        """The same of text of such a length, and that matches these; what matches `gap` before the mark is no part."""
        if n_min == 0 and n_max is None and not patterns:
            return self.up_to(name, mark)
        wholes = list(patterns)
        if n_min or n_max is not None:
            wholes.append(f"(?s:.){{{n_min},{'' if n_max is None else n_max}}}")
        if mark in self.marks:
            text = self.add(name.upper(), " & ".join(regex(f"({each}){gap}") for each in wholes))
            return f"{text} {self.text(mark)}"
        end = escaped(mark)  # in one lexeme, since one alone would take the mark for more of the text
        ended = [regex(f"({each}){gap}{end}") for each in wholes]
        return self.add(name.upper(), " & ".join([*ended, f"~/(?s:.*){end}(?s:.+)/"]))

    def new(self, name: str) -> str:
        """A name that no other rule has."""
        return f"{name}_{len(self._lines)}"

    def arguments(self, tool: Tool, k: int) -> str:
        """The object of a call's arguments. Where its schema cannot be held to, and need not be, what is left of it
        without what cannot; or else any object."""
        schema = dict(tool.parameters) or {"type": "object", "properties": {}}
        return self.value(schema, {"type": "object"}, f"tools[{k}].function.parameters", is_strict=tool.strict)

    def value(self, schema: object, otherwise: object, param: str, *, is_strict: bool) -> str:
        if not self.is_loose or is_strict:
            for held in (schema,) if is_strict else (schema, relaxed(schema)):
                try:
                    return self.embed(held, param)
                except InvalidRequest:
                    if is_strict:
                        raise
        return self.embed(otherwise, param)

    def grammar(self) -> str:
        return "\n".join((*self._lines, "WS: /[ \\n]{0,4}/", "NL: /\\n?/", ""))


def escaped(text: str) -> str:
    """The text as a pattern in slashes."""
    return re.sub(r"[^A-Za-z0-9_ ]", lambda found: f"\\x{{{ord(found.group()):X}}}", text)


def literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


@runtime_checkable
class Writes(Protocol):
    """A family whose calls can be written as a grammar."""

    @property
    def begins(self) -> str:
        """The mark that its calls begin with; nothing where they are bare."""
        ...

    def write(self, rules: Rules, tools: Sequence[Tool], n_calls: int | None) -> str:
        """A rule of all that follows the mark, at most `n_calls` calls of it where that is given."""
        ...


@runtime_checkable
class WritesBare(Writes, Protocol):
    """One whose calls may stand without a mark, where they begin the words; written there as after a mark."""

    @property
    def opens(self) -> tuple[str, ...]: ...

    def starts(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        """What only a call begins with: so much of it that no other text is meant."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """What calls are held to: any that the model begins, or (`is_required`) that there is one, and nothing else.

    `words` are a rule: what is said is held to it, so that there are calls, or else those words.
    """

    tools: tuple[Tool, ...]
    is_required: bool
    n_calls: int | None
    is_thinking: bool
    thinking: tuple[str, str] | None
    words: str = ""


def calls_constraint(family: Writes | None, held: Held, rules: Rules) -> Constraint:
    """Without a family there are words alone."""
    calls = family.write(rules, held.tools, held.n_calls) if family is not None else ""
    quiet = (held.thinking,) if held.thinking else ()
    if family is not None and not held.is_required and not held.words:
        rules.add("start", calls)
        starts = family.starts(held.tools) if isinstance(family, WritesBare) and not family.begins else ()
        triggers = family.opens if isinstance(family, WritesBare) and not family.begins else (family.begins,)
        return Constraint(grammar=rules.grammar(), triggers=triggers, starts=starts, repeats=True, quiet=quiet)
    start = held.words
    if family is not None:
        begins = rules.text(family.begins)
        start = f"{begins} {calls}"
        if family.begins and held.n_calls is None:
            start += f" (WS {start})*"
        start = f"({start} | {held.words})" if held.words and not held.is_required else f"WS {start}"
    if held.thinking and not held.is_thinking:
        thought = rules.up_to("thought", held.thinking[1])
        gap = " WS" if held.words else ""
        start = f"({rules.text(held.thinking[0])} {thought}{gap})? {start}"
    rules.add("start", start)
    return Constraint(grammar=rules.grammar(), quiet=quiet, starts_quiet=held.is_thinking and bool(quiet))
