"""What an answer is held to: a form of its words, its calls' schemas, a limit to its thoughts; and what reads it.

Knows formats and grammars; knows no prompt and no sampling. Raises InvalidRequest with the field that asks for what
cannot be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from llamahost.core.backend import Vocabulary
from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import ChatRequest, Output, Tool
from llamahost.core.work import Constraint, ThoughtLimit
from llamahost.fleet.request.known import spelling
from llamahost.text.constraint import Compile, constraint_of, explained, json_of, symbol_of
from llamahost.text.formats.format import Asked, Format
from llamahost.text.formats.grammar import Rules
from llamahost.text.schema_relaxed import relaxed
from llamahost.text.splitter import Splitter

_JSON = frozenset({"json", "schema"})
"""Forms of the output that can stand in a grammar beside calls and thoughts."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What all answers of one request are held to, and how each is read: `markers` are control tokens that show."""

    constraint: Constraint | None = None
    thoughts: ThoughtLimit | None = None
    new_splitter: Callable[[], Splitter | None] = lambda: None
    markers: Mapping[int, str] = field(default_factory=dict)


class Forms:
    """Of one model. Never changes. Without `compiles` no form of output is served."""

    __slots__ = ("_compiles", "_control_ids", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary, compiles: Compile | None) -> None:
        self._vocabulary = vocabulary
        self._compiles = compiles
        controls = itertools.compress(range(vocabulary.n_tokens), vocabulary.is_control)
        self._control_ids = {spelling(vocabulary, token): token for token in controls}

    def chat(self, request: ChatRequest, format_: Format, asked: Asked) -> AnswerForm:
        """Raises InvalidRequest."""
        constraint = (
            self._called(request, format_, asked) if asked.tools else self._formed(request.output, format_, asked)
        )
        return AnswerForm(
            constraint,
            self._limit(request, format_, asked, is_held=constraint is not None),
            new_splitter=lambda: format_.splitter(asked),
            markers={token: mark for mark, token in self._marks(format_, asked).items()},
        )

    def words(self, output: Output) -> Constraint | None:
        """What holds an answer of nothing but words to that form, ready for its job. Raises InvalidRequest."""
        if output.kind == "text":
            return None
        if self._compiles is None:
            raise InvalidRequest(f"output of the form `{output.kind}` is not served here", param=output.param)
        constraint = _known_constraint(output)
        try:
            return replace(constraint, compiled=self._compiles(constraint.grammar))
        except InvalidRequest as error:
            raise explained(output, error, self._compiles) from error

    def _formed(self, output: Output, format_: Format, asked: Asked) -> Constraint | None:
        """What holds the words to a form. Thoughts come first, and are free: those that the prompt has left open, and
        before JSON any. Raises InvalidRequest.
        """
        constraint = self.words(output)
        if constraint is None or format_.thought is None:
            return constraint
        if output.kind in _JSON and self._compiles is not None:
            rules = Rules(self._marks(format_, asked), json_of)
            words = rules.add("words", symbol_of(output))
            whole = format_.constraint(asked, rules, is_required=False, words=words)
            assert whole is not None  # there are no calls that could not be held to
            return replace(whole, compiled=self._compiles(whole.grammar))
        return replace(constraint, quiet=(format_.thought,), starts_quiet=True) if asked.is_thinking else constraint

    def _limit(self, request: ChatRequest, format_: Format, asked: Asked, *, is_held: bool) -> ThoughtLimit | None:
        """What closes thoughts that are too long; where a grammar follows, that has the next word. InvalidRequest."""
        if request.max_reasoning is None or (bounds := format_.bounds(asked)) is None:
            return None
        if any(mark in request.reasoning_end for mark in (bounds.open, bounds.close)):
            raise InvalidRequest("the end of thoughts must not hold their marks", param="reasoning_budget_message")
        said = self._vocabulary.encode(request.reasoning_end, add_special=False, parse_special=False)
        written = bounds.closing.rstrip() if is_held else bounds.closing
        closing = self._vocabulary.encode(written, add_special=False, parse_special=True)
        return ThoughtLimit(
            n_max=request.max_reasoning,
            open=bounds.open,
            close=bounds.close,
            closing=(*said, *closing),
            is_open=asked.is_thinking,
            recurs=bounds.recurs,
        )

    def _marks(self, format_: Format, asked: Asked) -> dict[str, int]:
        """The marks of this form that are control tokens of this model."""
        return {mark: self._control_ids[mark] for mark in format_.markers(asked) if mark in self._control_ids}

    def _called(self, request: ChatRequest, format_: Format, asked: Asked) -> Constraint | None:
        """What holds calls to their form and to their functions' schemas. Raises InvalidRequest where none can.

        What is strict is a promise. Other schemas lose what cannot be expressed, then all but that there is an object;
        and where calls are free to be made, what is read is at last what the model writes.
        """
        output = request.output
        if output.kind not in ("text", *_JSON):
            raise InvalidRequest("tools are served together with no form of the output but JSON", param=output.param)
        self.words(output)  # whatever is wrong with it is told as if there were no tools
        is_required = request.tool_choice != "auto"
        strict = next((k for k, tool in enumerate(asked.tools) if tool.strict), None)
        failure = InvalidRequest("the calls of this model cannot be held to a form")
        marks = self._marks(format_, asked)
        loosened = replace(asked, tools=tuple(map(_loosened, asked.tools)))
        ways = ((asked, False), (loosened, False), (loosened, True))
        for held, is_loose in ways if self._compiles else ():
            try:
                rules = Rules(marks, json_of, is_loose=is_loose)
                words = rules.add("words", symbol_of(output)) if output.kind in _JSON and not is_required else ""
                constraint = format_.constraint(held, rules, is_required=is_required, words=words)
                if constraint is None:
                    break
                assert self._compiles is not None
                return replace(constraint, compiled=self._compiles(constraint.grammar))
            except InvalidRequest as error:
                failure = error
        if is_required:
            raise InvalidRequest(f"`tool_choice`: {failure}", param=failure.param or "tool_choice") from failure
        if strict is not None:
            param = failure.param or f"tools[{strict}].function.strict"
            raise InvalidRequest(f"`strict`: {failure}", param=param) from failure
        if output.kind in _JSON:
            raise InvalidRequest(f"`{output.param}` together with tools: {failure}", param=output.param) from failure
        return None


def _loosened(tool: Tool) -> Tool:
    """Without what no grammar expresses, unless it is strict."""
    schema = relaxed(tool.parameters)
    return replace(tool, parameters=schema) if isinstance(schema, dict) and not tool.strict else tool


@lru_cache(maxsize=64)
def _known_constraint(output: Output) -> Constraint:
    """Of a form that is not text; a schema that comes again is not walked again."""
    constraint = constraint_of(output)
    assert constraint is not None
    return constraint
