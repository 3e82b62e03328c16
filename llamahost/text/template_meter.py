"""What one rendering may cost: steps, characters, items. Knows values and sizes; knows no template and no clock.

A step of Jinja is cheap, but one operation in C is not: a list that holds itself twice, thirty times over, is short to
write and takes an hour to print. So each operation that may take longer than a step is weighed before it is done, and
all together are bounded. That is counted, not timed, so that a prompt either renders everywhere or nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set, ValuesView
from contextlib import suppress
from typing import Any

MAX_CHARS = 16 * 2**20
"""Of a rendered prompt, and of any text made on the way; more than any context holds."""

MAX_STEPS = 5 * 10**6
"""Passes through loops, branches and macros, and items looked at; 500 turns take 150,000 of Gemma 4, the slowest."""

MAX_MOVED = 2**29
"""Characters that all operations together read or write."""

MAX_ITEMS = 10**6
"""Of a list, with all that it holds."""

MAX_WIDTH = 10**4
"""Of a column, an indentation or a number."""

_MAX_BITS = 4096
_SCALARS = (int, float, bool, type(None))
_WIDE = re.compile(r"\d{5,}|\*")
_WIDE_FIELD = re.compile(r"\d{5,}|:[^{}]*\{")


class Meter:
    """Of one rendering; belongs to the thread that renders. Raises OverflowError where something goes too far."""

    __slots__ = ("n_moved", "n_steps")

    def __init__(self, n_steps: int = MAX_STEPS) -> None:
        self.n_steps = n_steps
        self.n_moved = min(MAX_MOVED, 128 * n_steps)

    def step(self, n: int = 1) -> None:
        self.n_steps -= n
        if self.n_steps < 0:
            raise OverflowError("it takes too many steps")

    def move(self, n_chars: int) -> None:
        """Text that is read or made."""
        self.n_moved -= n_chars
        if n_chars > MAX_CHARS:
            raise OverflowError(f"the prompt, or a part of it, grew beyond {MAX_CHARS} characters")
        if self.n_moved < 0:
            raise OverflowError("it reads and writes too much")

    def weigh(self, value: object) -> int:
        """The characters of all that is in it, for what looks at everything: print, compare, hash."""
        if type(value) is str:
            self.move(len(value))
            return len(value)
        if type(value) in _SCALARS:
            return 32
        n_items = n_chars = 0
        n_most = min(MAX_ITEMS, self.n_steps)
        rest: list[object] = [value]
        while rest:
            one = rest.pop()
            kind = type(one)
            if isinstance(one, str):
                n_chars += len(one)
            elif kind is list or kind is tuple:
                rest += one  # type: ignore[arg-type]  # just found to be one
            elif kind is dict or isinstance(one, Mapping):
                rest += one.keys()  # type: ignore[attr-defined]  # one of both
                rest += one.values()  # type: ignore[attr-defined]  # likewise
            elif kind not in _SCALARS:
                if isinstance(one, (list, tuple, Set, ValuesView)):  # views of a dictionary print what they show
                    rest += one
                with suppress(AttributeError):  # so does a namespace; asked in this way, nothing else answers
                    rest.append(object.__getattribute__(one, "_Namespace__attrs"))
            n_items += 1
            if n_items + len(rest) > n_most:
                raise OverflowError(f"a list holds more than {n_most} items with all that is in it")
        self.step(n_items)
        self.move(n_chars)
        return n_chars + 32 * n_items

    def weigh_all(self, values: Iterable[object]) -> None:
        for value in values:
            if type(value) not in _SCALARS:
                self.weigh(value)

    def found_in(self, value: Any) -> Any:
        """Before something is looked for in it."""
        if type(value) is str:
            self.move(len(value))
        elif isinstance(value, (list, tuple)):
            self.weigh(value)
        return value

    def made(self, value: Any) -> Any:
        """After a copy of text or items was made."""
        if isinstance(value, str):
            self.move(len(value))
        elif isinstance(value, (list, tuple)):
            self.sized(len(value))
        return value

    def sized(self, n_items: int) -> None:
        if n_items > MAX_ITEMS:
            raise OverflowError(f"a list has more than {MAX_ITEMS} items")
        self.step(n_items)

    def before_binop(self, operator: str, left: object, right: object) -> None:
        if operator == "**":
            if _bits(left) > 32 or _bits(right) > 6:
                raise OverflowError("a power is too large")
        elif operator == "%":
            if isinstance(left, str):
                self.formatted(left, right if isinstance(right, tuple) else (right,))
        elif operator == "+":
            if isinstance(left, str) and isinstance(right, str):
                self.move(len(left) + len(right))
            elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
                self.sized(len(left) + len(right))
        elif isinstance(left, (str, list, tuple)) or isinstance(right, (str, list, tuple)):
            repeated, times = (left, right) if isinstance(left, (str, list, tuple)) else (right, left)
            if isinstance(repeated, (str, list, tuple)) and isinstance(times, int):
                n = len(repeated) * max(0, times)
                if n > MAX_ITEMS:
                    raise OverflowError("a repetition is too long")
                self.step(n // 64)
        elif _bits(left) + _bits(right) > _MAX_BITS:
            raise OverflowError("a number is too large")

    def formatted(self, form: str, values: Sequence[object]) -> None:
        """Before `%` and its kin, whose columns may be as wide as they like."""
        if _WIDE.search(form):
            raise OverflowError("a column is too wide")
        self.weigh_all(values)
        self.move(len(form) * (1 + max((len(v) for v in values if isinstance(v, str)), default=0)))

    def format_string(self, form: str) -> None:
        """Before `str.format`: the same, and no width from an argument."""
        if _WIDE_FIELD.search(form):
            raise OverflowError("a column is too wide")

    def before_method(self, owner: object, name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Before a method of Python's own types."""
        self.weigh_all(args)
        self.weigh_all(kwargs.values())
        if isinstance(owner, str):
            self.move(len(owner))
            self.widths(args)
            if name == "join":
                self.joined(owner, args[0] if args else ())
            elif name == "replace" and len(args) > 1:
                self.replaced(owner, args[0], args[1])
            elif name == "translate":
                raise OverflowError("text cannot be translated here")
        elif isinstance(owner, (list, dict)):
            if name in ("index", "count", "remove", "sort"):
                self.weigh(owner)
            elif name in ("extend", "copy", "update", "insert", "reverse"):
                self.sized(len(owner) + sum(len(arg) for arg in args if isinstance(arg, (list, tuple, dict, str))))
        elif isinstance(owner, int) and name == "to_bytes":
            raise OverflowError("numbers have no bytes here")

    def joined(self, separator: object, parts: object) -> None:
        if isinstance(separator, str) and isinstance(parts, (list, tuple, str, Mapping)):
            self.move(len(separator) * len(parts))

    def replaced(self, text: object, old: object, new: object) -> None:
        if isinstance(text, str) and isinstance(old, str) and isinstance(new, str):
            self.move((text.count(old) if old else len(text) + 1) * len(new))

    def widths(self, values: Iterable[object]) -> None:
        if any(isinstance(value, int) and abs(value) > MAX_WIDTH for value in values):
            raise OverflowError("a column is too wide")


def _bits(value: object) -> int:
    return value.bit_length() if isinstance(value, int) else 0
