"""Gather what is wrong with a manifest, so that all of it is told at once. Knows tables; not what their keys mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from llamahost.core.errors import ManifestError

T = TypeVar("T")

MOST = 20
_SOURCES = frozenset({"name", "path", "repo", "models"})
"""Without these a table is another one, whose mistakes nobody made."""
_NEEDED_BY = {"tls_cert": "tls_key"}


class Mistakes:
    """Told in the order of their lines."""

    def __init__(self) -> None:
        self._found: list[ManifestError] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, error: ManifestError) -> None:
        self._found.append(error)

    def of(self, table: object, make: Callable[[object], T]) -> T | None:
        """What is made of the table; nothing of one that is wrong, of which each key is looked at."""
        n_before = len(self._found)
        while True:
            try:
                made = make(table)
            except ManifestError as error:
                self.add(error)
                rest = _without(table, error.key)
                if rest is None:
                    return None
                table = rest
            else:
                return made if len(self._found) == n_before else None

    def tell(self) -> None:
        """Raises ManifestError where there are any; its key is the first one's."""
        if self._found:
            first, *_ = found = sorted(self._found, key=lambda each: each.line)
            told = [str(each) for each in found[:MOST]]
            more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
            raise ManifestError("\n".join(told + more), key=first.key, line=first.line) from first


def _without(table: object, key: str) -> Mapping[str, object] | None:
    """The table without this key, or without it in a table of its own; None where it says nothing then."""
    if not isinstance(table, dict) or key in _SOURCES:
        return None
    if key in table:
        return {name: value for name, value in table.items() if name not in (key, _NEEDED_BY.get(key))}
    for name, inner in table.items():
        if isinstance(inner, dict) and key in inner:
            return {**table, name: {each: value for each, value in inner.items() if each != key}}
    return None
