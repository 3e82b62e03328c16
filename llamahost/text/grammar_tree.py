"""What a grammar is once it is read: rules by name, and what makes one unusable. Knows no notation."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import TypeAlias

from llamahost.text.least import least

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)

Range: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of these ranges, which are in order, apart, and without surrogates."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Ref:
    name: str
    at: int


@dataclass(frozen=True, slots=True)
class TokenRef:
    """A token of the vocabulary, as llguidance writes it too."""

    spelling: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other; of none, the empty text."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    node: Node
    least: int
    most: int | None  # None: without end


Node: TypeAlias = Chars | Ref | TokenRef | Sequence | Choice | Repeat


@dataclass(frozen=True, slots=True)
class Grammar:
    """Rules by name, `root` among them; those that `root` does not reach are left out."""

    rules: dict[str, Node]


def refs(node: Node) -> list[Ref]:
    """All references in it, in order."""
    found: list[Ref] = []
    stack = [node]
    while stack:
        each = stack.pop()
        if isinstance(each, Ref):
            found.append(each)
        stack.extend(reversed(children(each)))
    return found


def children(node: Node) -> tuple[Node, ...]:
    match node:
        case Sequence(items):
            return items
        case Choice(options):
            return options
        case Repeat(inner, _, _):
            return (inner,)
    return ()


def negated(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    """All characters but these; the ranges are in order and apart."""
    result: list[Range] = []
    start = 0
    for low, high in sorted((*ranges, SURROGATES)):
        if start < low:
            result.append((start, low - 1))
        start = max(start, high + 1)
    if start <= LAST:
        result.append((start, LAST))
    return tuple(result)


def merged(ranges: list[Range]) -> tuple[Range, ...]:
    """In order, apart, and without surrogates."""
    return negated(negated(tuple(sorted(ranges))))


ANY = Chars(negated(()))


def nullable(rules: dict[str, Node]) -> set[str]:
    """The rules that can be empty."""
    needs = {name: {ref.name for ref in refs(node)} for name, node in rules.items()}
    return least(needs, lambda name, found: is_nullable(rules[name], found))


def is_nullable(node: Node, known: Set[str]) -> bool:
    match node:
        case Ref(name, _):
            return name in known
        case Sequence(items):
            return all(is_nullable(item, known) for item in items)
        case Choice(options):
            return any(is_nullable(option, known) for option in options)
        case Repeat(inner, least, _):
            return least == 0 or is_nullable(inner, known)
    return False


def _firsts(node: Node, empty: Set[str]) -> set[str]:
    """Rules that a node can begin with."""
    match node:
        case Ref(name, _):
            return {name}
        case Sequence(items):
            found: set[str] = set()
            for item in items:
                found |= _firsts(item, empty)
                if not is_nullable(item, empty):
                    break
            return found
        case Choice(options):
            return set().union(*(_firsts(option, empty) for option in options))
        case Repeat(inner, _, _):
            return _firsts(inner, empty)
    return set()


def left_recursive(rules: dict[str, Node]) -> str:
    """A rule that can begin with itself, or nothing."""
    empty = nullable(rules)
    edges = {name: _firsts(node, empty) for name, node in rules.items()}
    state: dict[str, int] = {}  # 1: on the way, 2: done
    for start in rules:
        stack: list[tuple[str, list[str]]] = [(start, sorted(edges[start]))] if start not in state else []
        state.setdefault(start, 1)
        while stack:
            name, left = stack[-1]
            if not left:
                state[name] = 2
                stack.pop()
                continue
            following = left.pop()
            if state.get(following) == 1:
                return following
            if following not in state:
                state[following] = 1
                stack.append((following, sorted(edges[following])))
    return ""
