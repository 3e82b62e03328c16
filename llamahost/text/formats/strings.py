"""What the keywords of a string ask for, as patterns of the whole string, for where strings stand without JSON's
quotes. Knows JSON Schema's `pattern` and `format`; knows no family and compiles nothing.

A format is written more narrowly than it is defined, so that what is written is valid wherever it is checked.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamahost.text.schema_formats import keywords_of

_MONTH_DAY = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_DAY = f"([1-9][0-9]{{3}}-{_MONTH_DAY})"
_TIME = r"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))"
_CLOCK = "([0-9]{1,3}H([0-9]{1,2}M([0-9]{1,2}S)?)?|[0-9]{1,3}M([0-9]{1,2}S)?|[0-9]{1,5}S)"
_DAYS = "([0-9]{1,3}Y([0-9]{1,2}M([0-9]{1,2}D)?)?|[0-9]{1,3}M([0-9]{1,2}D)?|[0-9]{1,3}D)"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?"
_HOST = rf"({_LABEL}(\.{_LABEL}){{0,8}})"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_GROUP = "[0-9a-fA-F]{1,4}"
_HEX = "[0-9a-fA-F]"
_PATH = "[A-Za-z0-9._~!$&'()*+,;=:@/-]"

PATTERNS: Mapping[str, str] = {
    "date": _DAY,
    "time": _TIME,
    "date-time": f"{_DAY}T{_TIME}",
    "duration": f"P({_DAYS}(T{_CLOCK})?|T{_CLOCK}|[0-9]{{1,3}}W)",
    "email": rf"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+){{0,4}}@{_LABEL}(\.{_LABEL}){{1,4}}",
    "hostname": _HOST,
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
    "ipv6": f"(({_GROUP}:){{7}}{_GROUP}|({_GROUP}:){{1,6}}:{_GROUP}|::({_GROUP}:){{0,5}}{_GROUP})",
    "uuid": f"{_HEX}{{8}}-({_HEX}{{4}}-){{3}}{_HEX}{{12}}",
    "uri": rf"[a-z][a-z0-9+-]*://{_HOST}(:[0-9]{{1,4}})?(/{_PATH}*)?(\?{_PATH}*)?(#{_PATH}*)?",
}


def patterns_of(schema: Mapping[str, object]) -> tuple[str, ...] | None:
    """Patterns that the whole string matches, each of them; None where one cannot be written so."""
    kept = keywords_of(schema["format"]) if "format" in schema else {}
    if kept is None:
        return None
    found = [PATTERNS[kept["format"]]] if "format" in kept else []
    for given in (kept, schema):
        if "pattern" in given:
            pattern = whole(given["pattern"])
            if pattern is None:
                return None
            found.append(pattern)
    return tuple(found)


def whole(pattern: object) -> str | None:
    """A pattern of all strings in which this one is found; None where its anchors do not stand at ends, or where it is
    none by itself: `a)|(b` would become one within our groups."""
    if not isinstance(pattern, str) or not _is_closed(pattern):
        return None
    branches: list[str] = []
    for branch in _branches(pattern):
        is_begun, is_ended = branch.startswith("^"), _ends_with_anchor(branch)
        core = branch[int(is_begun) : len(branch) - int(is_ended)]
        if _has_anchor(core):
            return None
        branches.append(f"{'' if is_begun else '(?s:.*)'}({core}){'' if is_ended else '(?s:.*)'}")
    return f"({'|'.join(branches)})"


def _signs(pattern: str) -> list[tuple[int, str, int]]:
    """The characters that act: where they stand, and within how many groups; none of a class or escaped."""
    found: list[tuple[int, str, int]] = []
    depth, at, class_at = 0, 0, -1
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 2
            continue
        if class_at >= 0:
            if sign == "]" and at > class_at + 1 + pattern.startswith("^", class_at + 1):
                class_at = -1
        elif sign == "[":
            class_at = at
        else:
            depth -= sign == ")"
            found.append((at, sign, depth))
            depth += sign == "("
        at += 1
    return found


def _is_closed(pattern: str) -> bool:
    """Whether what comes behind it would stand in no group and no class of it, and not escaped."""
    signs = _signs(f"{pattern}$")
    return signs[-1:] == [(len(pattern), "$", 0)] and all(depth >= 0 for _, _, depth in signs)


def _branches(pattern: str) -> list[str]:
    cuts = [at for at, sign, depth in _signs(pattern) if sign == "|" and depth == 0]
    return [pattern[start + 1 : end] for start, end in zip([-1, *cuts], [*cuts, len(pattern)], strict=True)]


def _ends_with_anchor(branch: str) -> bool:
    signs = _signs(branch)
    return bool(signs) and signs[-1][:2] == (len(branch) - 1, "$")


def _has_anchor(core: str) -> bool:
    return any(sign in "^$" for _, sign, _ in _signs(core))
