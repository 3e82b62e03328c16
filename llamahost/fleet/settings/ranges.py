"""What a value of the manifest may be: its type, its range, its choices. Knows no key."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamahost.core.errors import ManifestError


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field may hold: of this type, within the range or among the choices."""

    type: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    is_optional: bool = False
    is_by_device: bool = False  # or a table of such, by the names of devices


_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list"}


def check(owner: object, kinds: Mapping[str, Kind]) -> None:
    """Raises ManifestError."""
    for key, kind in kinds.items():
        value = getattr(owner, key)
        if value is None and kind.is_optional:
            continue
        values = value.values() if kind.is_by_device and isinstance(value, Mapping) else (value,)
        for each in values:
            _check(key, kind, each)


def _check(key: str, kind: Kind, value: Any) -> None:
    is_right = isinstance(value, (int, float) if kind.type is float else kind.type)
    if not is_right or (isinstance(value, bool) and kind.type is not bool):
        wanted = _TYPE_NAMES.get(kind.type, "a table")
        raise ManifestError(f"{key} must be {wanted}, not {value!r}", key=key)
    if kind.choices and value not in kind.choices:
        raise ManifestError(f"{key} must be one of {', '.join(kind.choices)}, not {value!r}", key=key)
    if kind.type in (int, float) and not kind.low <= value <= kind.high:
        raise ManifestError(f"{key} must be between {kind.low:.10g} and {kind.high:.10g}, not {value}", key=key)


def is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e6


def is_pattern(text: str) -> bool:
    """Whether this is a regular expression here; what C++ thinks of it besides, it says without dying."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return text.isascii() and text.isprintable() and max(text.count("("), text.count("["), text.count("{")) <= 16


def is_network(text: object) -> bool:
    """Whether this is an IP address, a network of them, or `*`."""
    if text == "*":
        return True
    try:
        return isinstance(text, str) and bool(ipaddress.ip_network(text))
    except ValueError:
        return False
