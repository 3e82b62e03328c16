"""Places in a JSON Schema: where a pointer or a reference leads, and the error that names a place. Knows no keyword
but those that name places.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

from llamahost.core.errors import InvalidRequest

DEPTH = 64
"""Of one schema within another."""


class Unexpressed(InvalidRequest):
    """A schema that cannot be held to; `path` is a JSON pointer into it."""

    def __init__(self, message: str, path: str, param: str) -> None:
        super().__init__(f"`{param}`: {message}, at `{path or '/'}`", param=f"{param}{path}")
        self.path = path


class Places:
    """Of one schema, the field `param` of a request."""

    def __init__(self, root: object, param: str) -> None:
        self._root = root
        self._param = param
        self._base = root.get("$id") if isinstance(root, dict) else None
        self._anchors: dict[str, str] | None = None

    def at(self, pointer: str) -> object:
        node = self._root
        for step in pointer.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and step in node:
                node = node[step]
            elif isinstance(node, list) and step.isdecimal() and len(step) < 10 and int(step) < len(node):
                node = node[int(step)]
            else:
                raise self.error(f"`$ref` to `{short(pointer)}`, which is not there", pointer)
        return node

    def target(self, reference: str, path: str) -> str:
        """The pointer that a reference means. Raises Unexpressed."""
        base, _, fragment = reference.partition("#")
        if base and base != str(self._base or "").rstrip("#"):
            raise self.error(f"`$ref` to `{short(reference)}`: only what is in the schema can be referred to", path)
        fragment = unquote(fragment)
        if not fragment:
            return ""
        if not fragment.startswith("/"):
            if self._anchors is None:
                self._anchors = dict(_anchors(self._root, "", 0))
            if fragment not in self._anchors:
                raise self.error(f"`$ref` to `{short(reference)}`, which is not there", path)
            return self._anchors[fragment]
        try:
            self.at(fragment)
        except Unexpressed:
            raise self.error(f"`$ref` to `{short(reference)}`, which is not there", path) from None
        return fragment

    def error(self, message: str, path: str) -> Unexpressed:
        return Unexpressed(message, path, self._param)


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
                yield from _anchors(value, f"{path}/{escaped(key)}", depth + 1)
    elif isinstance(node, list):
        for k, value in enumerate(node):
            yield from _anchors(value, f"{path}/{k}", depth + 1)


def refers(node: object, depth: int) -> bool:
    if depth > 2 * DEPTH:
        return True
    if isinstance(node, dict):
        return "$ref" in node or any(refers(value, depth + 1) for value in node.values())
    return isinstance(node, list) and any(refers(value, depth + 1) for value in node)


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def short(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "…"
