"""Tell calls of functions: which may be called, under which ids, with which arguments. Knows no format.

What is called is one of the functions that the request offers; anything else is no call, and stays text.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llamahost.core.messages import Tool
from llamahost.text.formats.json_text import whole_characters
from llamahost.text.formats.script import Markers, Outcome, Script, Steps
from llamahost.text.splitter import Segment

Json = Mapping[str, object]
NewId = Callable[[], str]

_LETTERS = string.ascii_letters + string.digits
_BY_PYTHON = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def new_id() -> str:
    """As OpenAI's look."""
    return "call_" + "".join(secrets.choice(_LETTERS) for _ in range(24))


def new_short_id() -> str:
    """As Mistral's templates demand them: nine letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(9))


class Calls:
    """The calls of one answer. Owned by its splitter."""

    __slots__ = ("_ids", "_n_max", "_new_id", "_parameters", "_script", "n", "names")

    def __init__(self, script: Script, tools: Sequence[Tool], n_max: int | None, new_id: NewId) -> None:
        self._script = script
        self._parameters = {tool.name: tool.parameters for tool in tools}
        self.names = tuple(sorted(self._parameters, key=len, reverse=True))  # so that none is taken for its beginning
        self._new_id = new_id
        self._ids: set[str] = set()
        self._n_max = n_max
        self.n = 0

    @property
    def is_full(self) -> bool:
        """Whether the request wants no further call."""
        return self._n_max is not None and self.n >= self._n_max

    def open(self, name: str, id_: str = "") -> bool:
        """Tell of a call, whose arguments follow, with no way back; False where there is no such function."""
        if name not in self._parameters:
            return False
        while not id_ or id_ in self._ids:
            id_ = self._new_id()
        self._ids.add(id_)
        self.n += 1
        self._script.drop()
        self._script.told.append(Segment("", "tool", id_, name))
        return True

    def tell(self, arguments: str) -> None:
        """More of the arguments' JSON text."""
        self._script.tell(arguments, "tool")

    def types_of(self, name: str, key: str) -> frozenset[str]:
        """The JSON types that this argument may have; empty where the schema does not say."""
        schema = self._parameters.get(name, {})
        properties = schema.get("properties")
        wanted = properties.get(key) if isinstance(properties, Mapping) else None
        return types_named(wanted, schema)

    def types_at(self, name: str, path: Sequence[str]) -> frozenset[str]:
        """The same of a value within the arguments: `path` are keys, and any word where an item of a list stands."""
        root = self._parameters.get(name, {})
        node: object = root
        for step in path:
            node = _within(node, step, root, set())
        return types_named(node, root)


@dataclass(slots=True)
class Arguments:
    """The object of arguments of one call, made of keys and values that are not written as JSON."""

    calls: Calls
    name: str
    n: int = 0

    def key(self, key: str) -> None:
        before = ", " if self.n else "{"
        self.n += 1
        self.calls.tell(f"{before}{json_of(key)}: ")

    def close(self) -> None:
        self.calls.tell("}" if self.n else "{}")

    def is_text(self, key: str) -> bool:
        """Whether this value is a string, whatever it looks like: then it can be told as it comes."""
        return self.calls.types_of(self.name, key) == {"string"}

    def value(self, key: str, written: str) -> None:
        """A value as it was written without quotes: what the schema allows it to be, else a string."""
        self.calls.tell(typed(written, self.calls.types_of(self.name, key)))


def typed(written: str, types: frozenset[str]) -> str:
    """The JSON text of a bare value: of one of these types if it can be, of any if there are none."""
    stripped = written.strip()
    python = {"True": "true", "False": "false", "None": "null"}.get(stripped, stripped)
    try:
        value: object = json.loads(python, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return json_of(written)
    kind = "null" if value is None else _BY_PYTHON[type(value)]
    allowed = not types or kind in types or (kind == "integer" and "number" in types)
    if kind == "number" and "integer" in types and isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not allowed or (kind == "string" and types):
        return json_of(written)
    return python


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def read_string(script: Script, calls: Calls, ends: Markers) -> Steps[bool]:
    """Tell a string that stands without quotes or escapes, as it comes. False where the text ends within it."""
    calls.tell('"')
    if not (yield from script.until(ends, lambda text: calls.tell(json_of(text)[1:-1]), trims=False)):
        return False
    calls.tell('"')
    return True


def read_section(script: Script, calls: Calls, read_one: Callable[[], Steps[Outcome]], end: str) -> Steps[Outcome]:
    """Calls one after the other, up to the mark at their end."""
    outcome: Outcome = "no"
    while not calls.is_full:
        yield from script.spaces()
        if outcome == "whole":
            script.keep()
        found = yield from read_one()
        if found == "broken":
            return "broken"
        if found == "no":
            break
        outcome = "whole"
    if outcome == "whole" and not calls.is_full:
        script.back()
        if not (yield from script.take(end)):
            return "broken"
    return outcome


def read_many(
    script: Script,
    calls: Calls,
    read_one: Callable[[], Steps[Outcome]],
    *,
    between: tuple[str, ...],
    between_bare: tuple[str, ...] = (),
    again: str = "",
) -> Steps[Outcome]:
    """A list of calls with these signs `between` them. Without its brackets one call, or several with others between
    them, or where the next begins with `again`.
    """
    yield from script.spaces()
    is_list = yield from script.take("[")
    n = 0
    while True:
        yield from script.spaces()
        if n:
            script.keep()
        outcome = yield from read_one()
        if outcome == "no" and n:
            script.back()
            return "broken"
        if outcome != "whole":
            return outcome
        n += 1
        if calls.is_full or not (is_list or between_bare):
            return "whole"
        yield from script.spaces()
        if is_list and (yield from script.take("]")):
            return "whole"
        if (yield from script.take_one(between if is_list else between_bare)):
            continue
        if is_list:
            return "broken"
        if (yield from script.peek()) != again:
            return "whole"


def json_of(text: str) -> str:
    return json.dumps(whole_characters(text), ensure_ascii=False)


def types_named(schema: object, root: Json) -> frozenset[str]:
    """Every type that this schema names, through references and alternatives; empty where anything may be."""
    return _types(schema, root, 0, {}) or frozenset()


def _types(schema: object, root: Json, depth: int, seen: dict[str, frozenset[str] | None]) -> frozenset[str] | None:
    """None: nothing but what is being looked at already. Each reference is followed once, or a few that name each other
    would be followed for ever.
    """
    if not isinstance(schema, Mapping) or depth > 8:
        return frozenset()
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference not in seen:
            seen[reference] = None
            seen[reference] = _types(found_at(reference, root), root, depth + 1, seen)
        return seen[reference]
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(one for one in kind if isinstance(one, str))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        if isinstance(values, list):
            return frozenset("null" if value is None else _BY_PYTHON.get(type(value), "") for value in values)
    for word in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(word)
        if isinstance(branches, list) and branches:
            each = [_types(branch, root, depth + 1, seen) for branch in branches]
            named = [types for types in each if types is not None]
            if word == "allOf":
                return next((types for types in named if types), frozenset())
            return frozenset().union(*named) if all(named) else frozenset()
    return frozenset()


def _within(schema: object, step: str, root: Json, seen: set[str]) -> object:
    """The schema of a member or an item, through references and alternatives; None where it is not said."""
    if not isinstance(schema, Mapping):
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in seen:
            return None
        seen.add(reference)
        return _within(found_at(reference, root), step, root, seen)
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and step in properties:
        return properties[step]
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), Mapping):
            return schema[word]
    for word in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(word)
        for branch in branches if isinstance(branches, list) else ():
            found = _within(branch, step, root, seen)
            if found is not None:
                return found
    return None


def found_at(reference: str, root: Json) -> object:
    """What `#/a/b` points at within the schema."""
    found: object = root
    for step in reference.removeprefix("#").split("/")[1:]:
        if not isinstance(found, Mapping):
            return None
        found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found
