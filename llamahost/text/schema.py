"""JSON Schema as people write it → as the grammar compiler takes it; or the keyword, and where it stands, that it
cannot express. Knows drafts 4 to 2020-12; knows no grammar, token or model.

What comes out is draft 2020-12 with only the keywords that act: annotations and unknown keywords have no part in it
(JSON Schema ignores them), every reference is to `$defs` under a name of ours, and nothing of the compiler's own
`x-guidance` is let through. A keyword that cannot be kept is refused, never left out.

An object that names its properties and says nothing of others has no others: what comes out is valid all the same, and
nobody who lists fields wants more of them. Not so where several schemas are to hold at once (`allOf`, and what stands
beside `anyOf`, `oneOf` or `$ref`), as each of them names only its own.

Limits: SCHEMAS reached, DEPTH of one schema within another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from llamahost.text.schema_ends import has_an_end
from llamahost.text.schema_formats import FORMATS, keywords_of
from llamahost.text.schema_places import DEPTH, Places, Unexpressed, escaped, refers, short

SCHEMAS = 10_000

Schema: TypeAlias = "dict[str, Any] | bool"

TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")

REFUSED: Mapping[str, Callable[[Any], bool]] = {
    "not": lambda value: value is False,
    "if": lambda value: False,
    "contains": lambda value: False,
    "uniqueItems": lambda value: value is False,
    "propertyNames": lambda value: value is True or value == {},
    "dependentRequired": lambda value: value == {},
    "dependentSchemas": lambda value: value == {},
    "dependencies": lambda value: value == {},
    "unevaluatedItems": lambda value: value is True or value == {},
    "unevaluatedProperties": lambda value: value is True or value == {},
    "$dynamicRef": lambda value: False,
    "$recursiveRef": lambda value: False,
}
"""Keywords that no grammar here expresses, and the values with which they ask for nothing."""

_IN_PLACE = ("allOf", "anyOf", "oneOf", "$ref")
_NESTING = frozenset(("properties", "patternProperties", "additionalProperties", "items", "prefixItems"))


def convert(schema: object, param: str) -> dict[str, Any]:
    """The schema for the compiler. Raises Unexpressed."""
    return _ending(_Walk(schema, param).whole(), "", param)


def convert_part(schema: object, path: str, param: str) -> dict[str, Any]:
    """The same of the part of it at a JSON pointer, with what that refers to."""
    return _ending(_Walk(schema, param).whole(path), path, param)


def _ending(made: dict[str, Any], path: str, param: str) -> dict[str, Any]:
    if not has_an_end(made):
        raise Unexpressed("no value of it ever ends: each holds another of its kind", path, param)
    return made


def parts(schema: object, path: str, param: str) -> Iterator[str]:
    """Pointers of the schemas directly within the one at `path`, and of the one that it refers to."""
    places = Places(schema, param)
    node = places.at(path)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("$ref"), str):
        yield places.target(node["$ref"], path)
    for key in ("items", "additionalProperties", "additionalItems"):
        if isinstance(node.get(key), dict):
            yield f"{path}/{key}"
    for key in ("allOf", "anyOf", "oneOf", "prefixItems", "items"):
        if isinstance(node.get(key), list):
            yield from (f"{path}/{key}/{k}" for k in range(len(node[key])))
    for key in ("properties", "patternProperties"):
        if isinstance(node.get(key), dict):
            yield from (f"{path}/{key}/{escaped(name)}" for name in node[key])


@dataclass(slots=True)
class _Node:
    """One schema within: what it says and where, and what is made of it."""

    says: dict[str, Any]
    path: str
    depth: int
    is_open: bool  # schemas within it may be open: others are to hold with them
    made: dict[str, Any] = field(default_factory=dict)

    def at(self, key: str) -> str:
        return f"{self.path}/{escaped(key)}"


class _Walk:
    """One conversion."""

    def __init__(self, root: object, param: str) -> None:
        self.places = Places(root, param)
        self._names: dict[tuple[str, bool], str] = {}  # a pointer and whether it is open, and the name of its schema
        self._queue: list[tuple[str, bool]] = []
        self._inlined: list[str] = []
        self._n = 0
        declared = root.get("$schema") if isinstance(root, dict) else None
        self._is_old = isinstance(declared, str) and any(f"draft-0{n}/" in declared for n in (3, 4, 6, 7))

    def whole(self, path: str = "") -> dict[str, Any]:
        """With what the part at this path refers to."""
        made = self._schema(self.places.at(path), path, 0)
        if made is False:
            raise self.places.error("nothing is valid under it", path)
        result: dict[str, Any] = {} if made is True else made
        definitions: dict[str, Schema] = {}
        while self._queue:
            target = self._queue.pop()
            pointer, is_open = target
            definitions[self._names[target]] = self._schema(self.places.at(pointer), pointer, 0, is_open)
        if definitions:
            result["$defs"] = definitions
        return result

    def _schema(self, says: object, path: str, depth: int, is_open: bool = False) -> Schema:
        if isinstance(says, bool):
            return says
        if not isinstance(says, dict):
            raise self.places.error("a schema must be an object, true or false", path)
        if depth > DEPTH:
            raise self.places.error(f"schemas are nested more than {DEPTH} deep", path)
        self._n += 1
        if self._n > SCHEMAS:
            raise self.places.error(f"more than {SCHEMAS} schemas", path)
        if self._is_old and "$ref" in says:  # up to draft 7 a reference stands alone
            says = {"$ref": says["$ref"]}
        if path and isinstance(says.get("$id"), str) and not says["$id"].startswith("#") and refers(says, 0):
            raise self.places.error("`$id` of a schema within another", f"{path}/$id")
        n_in_place = sum(key in says for key in _IN_PLACE)
        is_joined = is_open or n_in_place > 1 or (n_in_place == 1 and not _NESTING.isdisjoint(says))
        node = _Node(says, path, depth, is_joined)
        for key, value in says.items():
            convert_keyword = _KEYWORDS.get(key)
            if convert_keyword is not None:
                convert_keyword(self, key, value, node)
        if not is_open and _can_close(says):
            node.made["additionalProperties"] = False
        if "discriminator" in says and "oneOf" in node.made:
            _discriminate(says["discriminator"], node.made)
        return node.made

    def _refused(self, key: str, value: Any, node: _Node) -> None:
        says = node.says
        asks_nothing = (
            REFUSED[key](value)
            or (key == "if" and "then" not in says and "else" not in says)
            or (key == "contains" and says.get("minContains") == 0 and "maxContains" not in says)
            or (key == "uniqueItems" and says.get("maxItems") in (0, 1))
        )
        if asks_nothing:
            return
        if key == "unevaluatedProperties" and value is False and not any(name in says for name in _IN_PLACE):
            if "additionalProperties" not in says:  # which evaluates all that is left
                node.made["additionalProperties"] = False
            return
        raise self.places.error(f"`{key}` is not supported in a schema that output is held to", node.at(key))

    def _reference(self, key: str, value: Any, node: _Node) -> None:
        if not isinstance(value, str):
            raise self.places.error("`$ref` must be a string", node.at(key))
        target = (self.places.target(value, node.at(key)), node.is_open)
        if target not in self._names:
            self._names[target] = f"d{len(self._names)}"
            self._queue.append(target)
        node.made[key] = f"#/$defs/{self._names[target]}"

    def _type(self, key: str, value: Any, node: _Node) -> None:
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name in TYPES for name in names):
            raise self.places.error(f"`type` must be of {', '.join(TYPES)}", node.at(key))
        node.made[key] = value

    def _values(self, key: str, value: Any, node: _Node) -> None:
        if key == "enum" and (not isinstance(value, list) or not value):
            raise self.places.error("`enum` must be a list of at least one value", node.at(key))
        self._check_value(value, node.at(key), 0)
        node.made[key] = value

    def _options(self, key: str, value: Any, node: _Node) -> None:
        here = node.at(key)
        each = self._option if key == "oneOf" else self._schema
        is_open = node.is_open or key == "allOf"
        node.made[key] = [
            each(option, f"{here}/{k}", node.depth + 1, is_open) for k, option in enumerate(self._list(value, here))
        ]

    def _option(self, says: object, path: str, depth: int, is_open: bool) -> Schema:
        """One of `oneOf`: what it refers to stands in its place, or the compiler could not see that they differ."""
        if isinstance(says, dict) and set(says) == {"$ref"} and isinstance(says["$ref"], str):
            pointer = self.places.target(says["$ref"], path)
            if pointer not in self._inlined:
                self._inlined.append(pointer)
                try:
                    return self._schema(self.places.at(pointer), pointer, depth, is_open)
                finally:
                    self._inlined.pop()
        return self._schema(says, path, depth, is_open)

    def _members(self, key: str, value: Any, node: _Node) -> None:
        here = node.at(key)
        if not isinstance(value, dict):
            raise self.places.error(f"`{key}` must be an object of schemas", here)
        node.made[key] = {
            name: self._schema(schema, f"{here}/{escaped(name)}", node.depth + 1, node.is_open)
            for name, schema in value.items()
        }

    def _within(self, key: str, value: Any, node: _Node) -> None:
        node.made[key] = self._schema(value, node.at(key), node.depth + 1, node.is_open)

    def _items(self, key: str, value: Any, node: _Node) -> None:
        """Up to draft 2019-09 `items` may be a list, and what follows it is then `additionalItems`."""
        here = node.at(key)
        if key == "additionalItems":
            if isinstance(node.says.get("items"), list):
                node.made["items"] = self._schema(value, here, node.depth + 1, node.is_open)
        elif key == "prefixItems" or isinstance(value, list):
            node.made["prefixItems"] = [
                self._schema(item, f"{here}/{k}", node.depth + 1, node.is_open)
                for k, item in enumerate(self._list(value, here))
            ]
        else:
            node.made["items"] = self._schema(value, here, node.depth + 1, node.is_open)

    def _required(self, key: str, value: Any, node: _Node) -> None:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.places.error("`required` must be a list of names", node.at(key))
        node.made[key] = value

    def _count(self, key: str, value: Any, node: _Node) -> None:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not is_whole or not 0 <= value < 2**31:
            raise self.places.error("the bound must be a whole number from 0 to 2147483647", node.at(key))
        node.made[key] = int(value)

    def _bound(self, key: str, value: Any, node: _Node) -> None:
        if isinstance(value, bool) and key.startswith("exclusive"):  # draft 4: it makes the other bound exclusive
            other = "minimum" if key == "exclusiveMinimum" else "maximum"
            if value and other in node.says:
                node.made[key] = self._number(node.says[other], node.at(key))
            return
        node.made[key] = self._number(value, node.at(key))
        if key == "multipleOf" and node.made[key] <= 0:
            raise self.places.error("`multipleOf` must be above 0", node.at(key))

    def _pattern(self, key: str, value: Any, node: _Node) -> None:
        if not isinstance(value, str):
            raise self.places.error("`pattern` must be a string", node.at(key))
        node.made[key] = value

    def _format(self, key: str, value: Any, node: _Node) -> None:
        kept = keywords_of(value)
        if kept is None:
            known = ", ".join(FORMATS)
            raise self.places.error(
                f"`format` `{short(str(value))}` is not known; the known ones are {known}", node.at(key)
            )
        if "pattern" in kept and "pattern" in node.says:
            raise self.places.error(f"`format` `{value}` beside a `pattern`", node.at(key))
        node.made.update(kept)

    def _number(self, value: object, here: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise self.places.error("the bound must be a number", here)
        return value

    def _check_value(self, value: object, here: str, depth: int) -> None:
        if depth > DEPTH:
            raise self.places.error(f"a value is nested more than {DEPTH} deep", here)
        if isinstance(value, dict):
            for item in value.values():
                self._check_value(item, here, depth + 1)
        elif isinstance(value, list):
            for item in value:
                self._check_value(item, here, depth + 1)
        elif isinstance(value, int | float) and not _is_finite(value):
            raise self.places.error("a number is out of range", here)

    def _list(self, value: object, here: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise self.places.error("it must be a list of at least one schema", here)
        return value


_KEYWORDS: Mapping[str, Callable[[_Walk, str, Any, _Node], None]] = {
    **dict.fromkeys(REFUSED, _Walk._refused),
    "$ref": _Walk._reference,
    "type": _Walk._type,
    **dict.fromkeys(("enum", "const"), _Walk._values),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _Walk._options),
    **dict.fromkeys(("properties", "patternProperties"), _Walk._members),
    "additionalProperties": _Walk._within,
    **dict.fromkeys(("items", "prefixItems", "additionalItems"), _Walk._items),
    "required": _Walk._required,
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"), _Walk._count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _Walk._bound),
    "pattern": _Walk._pattern,
    "format": _Walk._format,
}
"""Who converts which keyword; what is not among them is an annotation, or unknown."""


def _can_close(node: dict[str, Any]) -> bool:
    """Whether an object can be valid with no property but those that it names."""
    properties = node.get("properties")
    if not isinstance(properties, dict) or not properties:
        return False
    if any(key in node for key in (*_IN_PLACE, "additionalProperties", "patternProperties", "const", "enum")):
        return False
    required, least = node.get("required", ()), node.get("minProperties", 0)
    return all(name in properties for name in required) and least <= len(properties)


def _discriminate(discriminator: object, made: dict[str, Any]) -> None:
    """Options that each name themselves in one property, which OpenAPI lets them leave out: here they must say it, and
    then no two of them can be meant.
    """
    name = discriminator.get("propertyName") if isinstance(discriminator, dict) else None
    options = made["oneOf"]
    said: list[object] = []
    for option in options:
        properties = option.get("properties") if isinstance(option, dict) else None
        own = properties.get(name) if isinstance(properties, dict) else None
        if not isinstance(own, dict) or ("const" not in own and "enum" not in own):
            return
        said += own["enum"] if "enum" in own else [own["const"]]
    if not all(isinstance(value, str) for value in said) or len(set(map(str, said))) != len(said):
        return
    for option in options:
        option["required"] = [name, *(other for other in option.get("required", ()) if other != name)]
    made["anyOf" if "anyOf" not in made else "oneOf"] = made.pop("oneOf")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False
