"""The form that an answer must take → the grammar that it is held to. Knows JSON, GBNF, regexes and Lark; knows no
token and compiles nothing.

JSON is written as most models write it on one line: `{"a": 1, "b": [2, 3]}`. One way of writing leaves a grammar many
places without a choice, which need no sampling, and small models no chance to print spaces for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Output
from llamahost.core.work import Constraint
from llamahost.text.lark import to_lark
from llamahost.text.schema import convert, convert_part, parts
from llamahost.text.schema_places import Unexpressed

MAX_SCHEMA = 1 << 18
"""Characters of a schema's text."""

MAX_PATTERN = 1 << 14
MAX_GRAMMAR = 1 << 16
MAX_CHOICES = 2048
MAX_TRIED = 64
"""Parts of a schema that are compiled alone, in search of the one at fault; and no more than MAX_SCHEMA characters of
grammars: each may take a second for every hundred thousand of them."""

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_REASON = re.compile(r"^error: (.+)$", re.MULTILINE)

Compile = Callable[[str], object]
"""What a grammar becomes, for `Constraint.compiled`. Raises InvalidRequest where it cannot be compiled."""


def constraint_of(output: Output) -> Constraint | None:
    """What an answer of that form is held to, None where it is free. Raises InvalidRequest with the place at fault."""
    if output.kind == "text":
        return None
    return Constraint(grammar=grammar_of(output))


def grammar_of(output: Output) -> str:
    """The same, as a grammar in Lark."""
    value, param = output.value, output.param
    match output.kind:
        case "json":
            return schema_grammar({"type": "object"}, param)
        case "schema":
            return schema_grammar(loaded(value, param), param)
        case "regex":
            _check_length(value, MAX_PATTERN, param)
            return f"start: {regex(value)}"
        case "choice":
            # One lexeme, as llguidance follows no more than 2,000 rules at once.
            return f"start: C\nC: {' | '.join(literal(choice) for choice in _choices(value, param))}"
        case "grammar":
            _check_length(value, MAX_GRAMMAR, param)
            return to_lark(value, param)
        case "lark":
            _check_length(value, MAX_GRAMMAR, param)
            return value
        case "text":
            return "start: /(?s:.*)/"


def explained(output: Output, error: InvalidRequest, compiles: Compile) -> InvalidRequest:
    """What the compiler said of this output's grammar, with the place in the schema that it said it of.

    It names none itself; so parts of the schema are compiled alone, inwards, as long as one of them fails too.
    """
    param = output.param
    if output.kind != "schema":
        found = _REASON.findall(str(error)) if output.kind == "regex" else []  # not where in our grammar it stood
        return InvalidRequest(f"`{param}`: {found[-1] if found else error}", param=param)
    schema = loaded(output.value, param)
    path, n_tried, n_characters = "", 0, 0
    is_deeper = True
    while is_deeper:
        is_deeper = False
        for part in parts(schema, path, param):
            n_tried += 1
            if n_tried > MAX_TRIED:
                break
            try:
                grammar = _embedded(convert_part(schema, part, param))
                n_characters += len(grammar)
                if n_characters > MAX_SCHEMA:  # before it is compiled: one part may be all that there is time for
                    break
                compiles(grammar)
            except Unexpressed:
                continue
            except InvalidRequest as inner:
                if part != path:
                    path, error, is_deeper = part, inner, True
                break
    return Unexpressed(_plain(str(error)), path, param)


def schema_grammar(schema: object, param: str) -> str:
    """A grammar whose start is the schema. Raises Unexpressed."""
    return _embedded(convert(schema, param))


def json_of(schema: object, param: str) -> str:
    """The schema as a symbol for any rule of a grammar. Raises Unexpressed."""
    return _json(convert(schema, param))


def symbol_of(output: Output) -> str:
    """A form of JSON as a symbol for any rule of a grammar. Raises InvalidRequest with the place at fault."""
    schema = {"type": "object"} if output.kind == "json" else loaded(output.value, output.param)
    return json_of(schema, output.param)


def literal(text: str) -> str:
    """A string as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


def regex(pattern: str) -> str:
    """A pattern as Lark writes it: a whole match, like fullmatch."""
    parts_: list[str] = []
    is_escaped = False
    for character in pattern:
        if character == "/" and not is_escaped:
            parts_.append("\\")
        written = {"\n": "\\n", "\r": "\\r"}.get(character, character)
        parts_.append(written[1:] if is_escaped and len(written) > 1 else written)  # its backslash stands there already
        is_escaped = character == "\\" and not is_escaped
    return f"/{''.join(parts_)}/" if pattern else '""'


def loaded(text: str, param: str) -> object:
    """A schema's text as values. Raises InvalidRequest."""
    _check_length(text, MAX_SCHEMA, param)
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise InvalidRequest(f"`{param}` is nested too deeply", param=param) from None
    except ValueError as error:
        raise InvalidRequest(f"`{param}` is not JSON: {error}", param=param) from None


def _embedded(schema: dict[str, Any]) -> str:
    return f"start: {_json(schema)}"


def _json(schema: dict[str, Any]) -> str:
    return f"%json {json.dumps({'x-guidance': JSON_STYLE, **schema}, ensure_ascii=False)}"


def _choices(value: str, param: str) -> list[str]:
    choices = loaded(value, param)
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise InvalidRequest(f"`{param}` must be a list of at least one string", param=param)
    if len(choices) > MAX_CHOICES:
        raise InvalidRequest(f"`{param}` holds {len(choices)} choices; at most {MAX_CHOICES} are served", param=param)
    return choices


def _check_length(text: str, most: int, param: str) -> None:
    if len(text) > most:
        raise InvalidRequest(f"`{param}` has {len(text)} characters; at most {most} are served", param=param)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _plain(complaint: str) -> str:
    """The compiler's words without where in our grammar it stood."""
    lines = [line for line in complaint.splitlines() if not line.lstrip().startswith(("1 |", "^", "|"))]
    text = " ".join(" ".join(lines).split())
    for marker in ("failed to compile JSON schema: ", "failed to compile JSON schema"):
        text = text.split(marker, 1)[-1]
    if text.startswith("oneOf constraints are not supported"):
        return "the options of `oneOf` may overlap, as far as can be seen; `anyOf` is served"
    return text or "it cannot be compiled"
