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
from typing import Any, TypeAlias
from urllib.parse import unquote

from llamahost.core.errors import InvalidRequest
from llamahost.text.schema_ends import has_an_end
from llamahost.text.schema_formats import FORMATS, keywords_of

SCHEMAS = 10_000
DEPTH = 64

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
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


class Unexpressed(InvalidRequest):
    """A schema that cannot be held to; `path` is a JSON pointer into it."""

    def __init__(self, message: str, path: str, param: str) -> None:
        super().__init__(f"`{param}`: {message}, at `{path or '/'}`", param=f"{param}{path}")
        self.path = path


def convert(schema: object, param: str) -> dict[str, Any]:
    """The schema for the compiler. Raises Unexpressed."""
    return _ending(_Walk(schema, param).whole(), "", param)


def convert_part(schema: object, path: str, param: str) -> dict[str, Any]:
    """The same of the part of it at a JSON pointer, with what that refers to."""
    walk = _Walk(schema, param)
    return _ending(walk.whole(walk.at(path), path), path, param)


def _ending(made: dict[str, Any], path: str, param: str) -> dict[str, Any]:
    if not has_an_end(made):
        raise Unexpressed("no value of it ever ends: each holds another of its kind", path, param)
    return made


def parts(schema: object, path: str, param: str) -> Iterator[str]:
    """Pointers of the schemas directly within the one at `path`, and of the one that it refers to."""
    walk = _Walk(schema, param)
    node = walk.at(path)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("$ref"), str):
        yield walk.target(node["$ref"], path)
    for key in ("items", "additionalProperties", "additionalItems"):
        if isinstance(node.get(key), dict):
            yield f"{path}/{key}"
    for key in ("allOf", "anyOf", "oneOf", "prefixItems", "items"):
        if isinstance(node.get(key), list):
            yield from (f"{path}/{key}/{k}" for k in range(len(node[key])))
    for key in ("properties", "patternProperties"):
        if isinstance(node.get(key), dict):
            yield from (f"{path}/{key}/{_escaped(name)}" for name in node[key])


class _Walk:
    """One conversion."""

    def __init__(self, root: object, param: str) -> None:
        self._root = root
        self._param = param
        self._names: dict[tuple[str, bool], str] = {}  # a pointer and whether it is open, and the name of its schema
        self._queue: list[tuple[str, bool]] = []
        self._inlined: list[str] = []
        self._anchors: dict[str, str] | None = None
        self._n = 0
        declared = root.get("$schema") if isinstance(root, dict) else None
        self._is_old = isinstance(declared, str) and any(f"draft-0{n}/" in declared for n in (3, 4, 6, 7))
        self._base = root.get("$id") if isinstance(root, dict) else None

    def whole(self, node: object = None, path: str = "") -> dict[str, Any]:
        made = self._schema(self._root if node is None else node, path, 0)
        if made is False:
            raise self._error("nothing is valid under it", path)
        result: dict[str, Any] = {} if made is True else made
        definitions: dict[str, Schema] = {}
        while self._queue:
            target = self._queue.pop()
            pointer, is_open = target
            definitions[self._names[target]] = self._schema(self.at(pointer), pointer, 0, is_open)
        if definitions:
            result["$defs"] = definitions
        return result

    def at(self, pointer: str) -> object:
        node = self._root
        for step in pointer.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and step in node:
                node = node[step]
            elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            else:
                raise self._error(f"`$ref` to `{_short(pointer)}`, which is not there", pointer)
        return node

    def target(self, reference: str, path: str) -> str:
        """The pointer that a reference means. Raises Unexpressed."""
        base, _, fragment = reference.partition("#")
        if base and base != str(self._base or "").rstrip("#"):
            raise self._error(f"`$ref` to `{_short(reference)}`: only what is in the schema can be referred to", path)
        fragment = unquote(fragment)
        if not fragment:
            return ""
        if not fragment.startswith("/"):
            if self._anchors is None:
                self._anchors = dict(_anchors(self._root, "", 0))
            if fragment not in self._anchors:
                raise self._error(f"`$ref` to `{_short(reference)}`, which is not there", path)
            return self._anchors[fragment]
        try:
            self.at(fragment)
        except Unexpressed:
            raise self._error(f"`$ref` to `{_short(reference)}`, which is not there", path) from None
        return fragment

    def _schema(self, node: object, path: str, depth: int, is_open: bool = False) -> Schema:
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise self._error("a schema must be an object, true or false", path)
        if depth > DEPTH:
            raise self._error(f"schemas are nested more than {DEPTH} deep", path)
        self._n += 1
        if self._n > SCHEMAS:
            raise self._error(f"more than {SCHEMAS} schemas", path)
        if self._is_old and "$ref" in node:  # up to draft 7 a reference stands alone
            node = {"$ref": node["$ref"]}
        if path and isinstance(node.get("$id"), str) and not node["$id"].startswith("#") and _refers(node, 0):
            raise self._error("`$id` of a schema within another", f"{path}/$id")
        n_in_place = sum(key in node for key in _IN_PLACE)
        is_joined = is_open or n_in_place > 1 or (n_in_place == 1 and not _NESTING.isdisjoint(node))
        made: dict[str, Any] = {}
        for key, value in node.items():
            self._keyword(key, value, node, made, path, depth, is_joined)
        if not is_open and _can_close(node):
            made["additionalProperties"] = False
        if "discriminator" in node and "oneOf" in made:
            _discriminate(node["discriminator"], made)
        return made

    def _keyword(
        self, key: str, value: Any, node: dict[str, Any], made: dict[str, Any], path: str, depth: int, is_joined: bool
    ) -> None:
        here = f"{path}/{_escaped(key)}"
        if key in REFUSED:
            self._refused(key, value, node, made, here)
        elif key == "$ref":
            made["$ref"] = self._reference(value, here, is_joined)
        elif key == "type":
            made["type"] = self._type(value, here)
        elif key in ("enum", "const"):
            if key == "enum" and (not isinstance(value, list) or not value):
                raise self._error("`enum` must be a list of at least one value", here)
            self._literal(value, here, 0)
            made[key] = value
        elif key in ("allOf", "anyOf", "oneOf"):
            options = self._list(value, here)
            each = self._option if key == "oneOf" else self._schema
            is_open = is_joined or key == "allOf"
            made[key] = [each(option, f"{here}/{k}", depth + 1, is_open) for k, option in enumerate(options)]
        elif key in ("properties", "patternProperties"):
            if not isinstance(value, dict):
                raise self._error(f"`{key}` must be an object of schemas", here)
            made[key] = {
                name: self._schema(schema, f"{here}/{_escaped(name)}", depth + 1, is_joined)
                for name, schema in value.items()
            }
        elif key == "additionalProperties":
            made[key] = self._schema(value, here, depth + 1, is_joined)
        elif key in ("items", "prefixItems", "additionalItems"):
            self._items(key, value, node, made, here, depth, is_joined)
        elif key == "required":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise self._error("`required` must be a list of names", here)
            made[key] = value
        elif key in _COUNTS:
            made[key] = self._count(value, here)
        elif key in _NUMBERS:
            self._bound(key, value, node, made, here)
        elif key == "pattern":
            if not isinstance(value, str):
                raise self._error("`pattern` must be a string", here)
            made[key] = value
        elif key == "format":
            kept = keywords_of(value)
            if kept is None:
                known = ", ".join(FORMATS)
                raise self._error(f"`format` `{_short(str(value))}` is not known; the known ones are {known}", here)
            if "pattern" in kept and "pattern" in node:
                raise self._error(f"`format` `{value}` beside a `pattern`", here)
            made.update(kept)

    def _refused(self, key: str, value: Any, node: dict[str, Any], made: dict[str, Any], here: str) -> None:
        asks_nothing = (
            REFUSED[key](value)
            or (key == "if" and "then" not in node and "else" not in node)
            or (key == "contains" and node.get("minContains") == 0 and "maxContains" not in node)
            or (key == "uniqueItems" and node.get("maxItems") in (0, 1))
        )
        if asks_nothing:
            return
        if key == "unevaluatedProperties" and value is False and not any(name in node for name in _IN_PLACE):
            if "additionalProperties" not in node:  # which evaluates all that is left
                made["additionalProperties"] = False
            return
        raise self._error(f"`{key}` is not supported in a schema that output is held to", here)

    def _reference(self, value: object, here: str, is_open: bool) -> str:
        if not isinstance(value, str):
            raise self._error("`$ref` must be a string", here)
        target = (self.target(value, here), is_open)
        if target not in self._names:
            self._names[target] = f"d{len(self._names)}"
            self._queue.append(target)
        return f"#/$defs/{self._names[target]}"

    def _option(self, node: object, path: str, depth: int, is_open: bool) -> Schema:
        """One of `oneOf`: what it refers to stands in its place, or the compiler could not see that they differ."""
        if isinstance(node, dict) and set(node) == {"$ref"} and isinstance(node["$ref"], str):
            pointer = self.target(node["$ref"], path)
            if pointer not in self._inlined:
                self._inlined.append(pointer)
                try:
                    return self._schema(self.at(pointer), pointer, depth, is_open)
                finally:
                    self._inlined.pop()
        return self._schema(node, path, depth, is_open)

    def _type(self, value: object, here: str) -> object:
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name in TYPES for name in names):
            raise self._error(f"`type` must be of {', '.join(TYPES)}", here)
        return value

    def _items(
        self, key: str, value: Any, node: dict[str, Any], made: dict[str, Any], here: str, depth: int, is_open: bool
    ) -> None:
        """Up to draft 2019-09 `items` may be a list, and what follows it is then `additionalItems`."""
        if key == "additionalItems":
            if isinstance(node.get("items"), list):
                made["items"] = self._schema(value, here, depth + 1, is_open)
        elif key == "prefixItems" or isinstance(value, list):
            items = self._list(value, here)
            made["prefixItems"] = [
                self._schema(item, f"{here}/{k}", depth + 1, is_open) for k, item in enumerate(items)
            ]
        else:
            made["items"] = self._schema(value, here, depth + 1, is_open)

    def _count(self, value: object, here: str) -> int:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not is_whole or not 0 <= value < 2**31:  # type: ignore[operator]  # a number
            raise self._error("the bound must be a whole number from 0 to 2147483647", here)
        return int(value)  # type: ignore[call-overload, no-any-return]  # a number

    def _bound(self, key: str, value: Any, node: dict[str, Any], made: dict[str, Any], here: str) -> None:
        if isinstance(value, bool) and key.startswith("exclusive"):  # draft 4: it makes the other bound exclusive
            other = "minimum" if key == "exclusiveMinimum" else "maximum"
            if value and other in node:
                made[key] = self._number(node[other], here)
            return
        made[key] = self._number(value, here)
        if key == "multipleOf" and made[key] <= 0:
            raise self._error("`multipleOf` must be above 0", here)

    def _number(self, value: object, here: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise self._error("the bound must be a number", here)
        return value

    def _literal(self, value: object, here: str, depth: int) -> None:
        if depth > DEPTH:
            raise self._error(f"a value is nested more than {DEPTH} deep", here)
        if isinstance(value, dict):
            for item in value.values():
                self._literal(item, here, depth + 1)
        elif isinstance(value, list):
            for item in value:
                self._literal(item, here, depth + 1)
        elif isinstance(value, int | float) and not _is_finite(value):
            raise self._error("a number is out of range", here)

    def _list(self, value: object, here: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise self._error("it must be a list of at least one schema", here)
        return value

    def _error(self, message: str, path: str) -> Unexpressed:
        return Unexpressed(message, path, self._param)


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


def _anchors(node: object, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > 2 * DEPTH:
        return
    if isinstance(node, dict):
        if isinstance(node.get("$anchor"), str):
            yield node["$anchor"], path
        if isinstance(node.get("$id"), str) and node["$id"].startswith("#"):
            yield node["$id"][1:], path
        for key, value in node.items():
            if key not in ("enum", "const"):
                yield from _anchors(value, f"{path}/{_escaped(key)}", depth + 1)
    elif isinstance(node, list):
        for k, value in enumerate(node):
            yield from _anchors(value, f"{path}/{k}", depth + 1)


def _refers(node: object, depth: int) -> bool:
    if depth > 2 * DEPTH:
        return True
    if isinstance(node, dict):
        return "$ref" in node or any(_refers(value, depth + 1) for value in node.values())
    return isinstance(node, list) and any(_refers(value, depth + 1) for value in node)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "…"
