"""Write a JSON Schema as the grammar of values that are not written as JSON. Knows no family.

A notation says how strings, words and objects look; numbers are JSON's everywhere. What a keyword asks for and this
cannot hold to is refused with its place, or, where that is enough, loosened to any value of the notation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llamahost.core.errors import InvalidRequest
from llamahost.text.formats.calls import found_at
from llamahost.text.formats.grammar import Rules, literal
from llamahost.text.formats.strings import patterns_of

SAID = frozenset({"title", "description", "default", "examples", "type", "$defs", "definitions", "nullable"})
KEYWORDS = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
}
_OF_TYPES = frozenset().union(*KEYWORDS.values())
_MAX_DEPTH = 32

Schema = Mapping[str, object]


class Notation(Protocol):
    """How values are written."""

    @property
    def words(self) -> tuple[str, str, str]:
        """True, false and null."""
        ...

    @property
    def comma(self) -> str: ...

    @property
    def is_sorted(self) -> bool:
        """Whether an object's keys stand in the order of their names, not of the schema."""
        ...

    def string(self, rules: Rules, n_min: int, n_max: int | None, patterns: Sequence[str] = ()) -> str:
        """A symbol of every string of such a length; of some that match each of these patterns, where there are any."""
        ...

    def quoted(self, rules: Rules, text: str) -> str:
        """Symbols of this string."""
        ...

    def key(self, rules: Rules, key: str) -> str:
        """Symbols of a key of an object within a value, and what stands before its value."""
        ...

    def any_key(self, rules: Rules) -> str:
        """The same of every key."""
        ...


@dataclass(slots=True)
class Values:
    """The values of one call's arguments. Owned by who writes them; `name` makes its rules' names its own."""

    notation: Notation
    rules: Rules
    root: Schema
    param: str
    name: str
    is_exact: bool  # what cannot be held to is refused
    _by_reference: dict[str, str] = field(default_factory=dict)
    _n: int = 0

    def arguments(self, key: Callable[[str], str]) -> list[tuple[str, bool]]:
        """Of each property symbols, behind those of its key, and whether it must be there; in order."""
        properties = self.root.get("properties")
        required = self.root.get("required")
        wanted = required if isinstance(required, list) else []
        found = properties if isinstance(properties, Mapping) else {}
        names = sorted(found, key=str.lower) if self.notation.is_sorted else list(found)
        return [(f"{key(name)} {self.value(found[name], f'/properties/{name}')}", name in wanted) for name in names]

    def value(self, schema: object, path: str, depth: int = 0) -> str:
        """A symbol of all values that are valid. Raises InvalidRequest."""
        if self.rules.is_loose and not self.is_exact:
            return self._anything()
        try:
            return self._value(schema, path, depth)
        except InvalidRequest:
            if self.is_exact:
                raise
            return self._anything()

    def _value(self, schema: object, path: str, depth: int) -> str:
        if schema is True or schema == {}:
            return self._anything()
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            raise self._unheld("this schema", path)
        if "$ref" in schema:
            return self._referred(schema, path, depth)
        if "enum" in schema or "const" in schema:
            return self._one_of(schema.get("enum", [schema.get("const")]), path)
        for word in ("anyOf", "oneOf"):
            branches = schema.get(word)
            if isinstance(branches, list) and branches:
                if word == "oneOf" and not _are_apart(branches):
                    raise self._unheld("`oneOf` of options that may overlap", path)
                self._check(schema, {word}, path)
                return self._rule(
                    *(self._value(branch, f"{path}/{word}/{k}", depth + 1) for k, branch in enumerate(branches))
                )
        kind = schema.get("type")
        if isinstance(kind, list) and kind:
            return self._rule(*(self._value(of_type(schema, one), path, depth + 1) for one in kind))
        if not isinstance(kind, str) or kind not in KEYWORDS:
            raise self._unheld("a schema without a type", path)
        self._check(schema, KEYWORDS[kind], path)
        symbol = self._typed(kind, schema, path, depth)
        return self._rule(symbol, literal(self.notation.words[2])) if schema.get("nullable") is True else symbol

    def _typed(self, kind: str, schema: Schema, path: str, depth: int) -> str:
        true, false, null = map(literal, self.notation.words)
        match kind:
            case "string":
                n_min, n_max = bounds(schema, "minLength", "maxLength")
                patterns = patterns_of(schema)
                if patterns is None:
                    unheld = "pattern" if "pattern" in schema else "format"
                    raise self._unheld(f"this `{unheld}`", f"{path}/{unheld}")
                return self.notation.string(self.rules, n_min, n_max, patterns)
            case "integer" | "number":
                return self.rules.embed(
                    {key: schema[key] for key in schema if key != "nullable"}, f"{self.param}{path}"
                )
            case "boolean":
                return self._rule(true, false)
            case "array":
                item = self._value(schema.get("items", {}), f"{path}/items", depth + 1)
                return self._list(item, *bounds(schema, "minItems", "maxItems"))
            case "object":
                return self._object(schema, path, depth)
        return null

    def _list(self, item: str, n_min: int, n_max: int | None) -> str:
        if n_max is not None and n_max < max(n_min, 1):
            return '"[" "]"'
        more = f"{{{max(n_min - 1, 0)},{'' if n_max is None else n_max - 1}}}"
        items = f"{item} ({literal(self.notation.comma)} {item}){more}"
        return self._rule(f'"[" {items if n_min else f"({items})?"} "]"')

    def _object(self, schema: Schema, path: str, depth: int) -> str:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            if schema.get("required") or schema.get("additionalProperties") not in (None, True, {}):
                raise self._unheld("an object of such keys", path)
            self._anything()
            return f"{self.name}_object"
        if schema.get("additionalProperties") not in (None, False):
            raise self._unheld("`additionalProperties`", path)
        required = schema.get("required")
        wanted = required if isinstance(required, list) else []
        names = sorted(properties, key=str.lower) if self.notation.is_sorted else list(properties)
        members = [
            (
                f"{self.notation.key(self.rules, name)} "
                f"{self._value(properties[name], f'{path}/properties/{name}', depth + 1)}",
                name in wanted,
            )
            for name in names
        ]
        return self._rule(f'"{{" {separated(members, literal(self.notation.comma))} "}}"')

    def _referred(self, schema: Schema, path: str, depth: int) -> str:
        reference = schema["$ref"]
        self._check(schema, {"$ref"}, path)
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise self._unheld("this `$ref`", path)
        if reference not in self._by_reference:
            found = found_at(reference, self.root)
            if found is None:
                raise self._unheld("this `$ref`", path)
            self._n += 1
            self._by_reference[reference] = name = f"{self.name}_{self._n}"
            try:
                self.rules.add(name, self._value(found, path, depth + 1))
            except InvalidRequest:
                if self.is_exact:
                    raise
                self.rules.add(name, self._anything())  # others may refer to it, too
        return self._by_reference[reference]

    def _one_of(self, choices: object, path: str) -> str:
        if not isinstance(choices, list) or not choices:
            raise self._unheld("`enum`", path)
        symbols: list[str] = []
        for choice in choices:
            if isinstance(choice, str):
                symbols.append(self.notation.quoted(self.rules, choice))
            elif isinstance(choice, (bool, int, float)) or choice is None:
                written = json.dumps(choice)
                words = dict(zip(("true", "false", "null"), self.notation.words, strict=True))
                symbols.append(literal(words.get(written, written)))
            else:
                raise self._unheld("a list or object in `enum`", path)
        return self._rule(*symbols)

    def _anything(self) -> str:
        """Every value, of whatever type."""
        name, rules, notation = f"{self.name}_any", self.rules, self.notation
        if "" not in self._by_reference:
            self._by_reference[""] = name
            comma = literal(notation.comma)
            text = notation.string(rules, 0, None)
            number = rules.embed({"type": "number"}, self.param)
            rules.add(name, text, number, *map(literal, notation.words), f"{name[:-3]}list", f"{name[:-3]}object")
            rules.add(f"{name[:-3]}list", f'"[" ({name} ({comma} {name})*)? "]"')
            member = f"{notation.any_key(rules)} {name}"
            rules.add(f"{name[:-3]}object", f'"{{" ({member} ({comma} {member})*)? "}}"')
        return name

    def _rule(self, *alternatives: str) -> str:
        self._n += 1
        return self.rules.add(f"{self.name}_{self._n}", *alternatives)

    def _check(self, schema: Schema, known: frozenset[str] | set[str], path: str) -> None:
        unknown = next((key for key in schema if key not in known and key not in SAID), None)
        if unknown is not None:
            raise self._unheld(f"`{unknown}`", f"{path}/{unknown}")

    def _unheld(self, what: str, path: str) -> InvalidRequest:
        param = f"{self.param}{path}"
        return InvalidRequest(f"{what} cannot be held to in the form of this model's calls, at `{path}`", param=param)


def separated(members: Sequence[tuple[str, bool]], comma: str) -> str:
    """These in order, with commas between those that are there; one that is not wanted may be left out."""
    after = ""  # what may follow the first member that is there
    alternatives: list[str] = []
    for symbols, is_wanted in reversed(members):
        if is_wanted:
            alternatives = []
        alternatives.append(f"{symbols} {after}".strip())
        after = f"{comma} {symbols} {after}".strip() if is_wanted else f"({comma} {symbols})? {after}".strip()
    may_be_none = not any(is_wanted for _, is_wanted in members)
    joined = " | ".join(alternatives)
    return f"({joined})?" if may_be_none and joined else f"({joined})" if joined else ""


def bounds(schema: Schema, least: str, most: str) -> tuple[int, int | None]:
    """A pair of bounds that may be left out. Raises InvalidRequest where one is no number of something."""
    low, high = (_count(schema, word) for word in (least, most))
    return low or 0, high


def _count(schema: Schema, word: str) -> int | None:
    value = schema.get(word)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**31 or value != int(value):
        raise InvalidRequest(f"`{word}` must be a whole number from 0 on, not {value!r:.40}")
    return int(value)


def of_type(schema: Schema, kind: object) -> Schema:
    """Without what asks nothing of values of this type."""
    known = KEYWORDS.get(kind, frozenset()) if isinstance(kind, str) else frozenset()
    return {**{key: schema[key] for key in schema if key not in _OF_TYPES or key in known}, "type": kind}


def _are_apart(branches: Sequence[object]) -> bool:
    """Each is of a type of its own."""
    kinds = [branch.get("type") if isinstance(branch, Mapping) else None for branch in branches]
    kinds = ["number" if kind == "integer" else kind for kind in kinds]
    return all(isinstance(kind, str) for kind in kinds) and len(set(kinds)) == len(kinds)
