"""Write a GBNF grammar in llguidance's Lark, of exactly the same language. Knows both notations.

llguidance reads a text in lexemes, and takes the longest that any rule could want there, so that `"ab" "c" | "abc" "d"`
does not derive `abc`. Two ways of writing keep clear of that:

- A grammar without recursion is one lexeme, a regular expression put together of named ones.
- One with recursion is written in lexemes of single characters, of which none is longer than another.

A rule that only ends with itself is no recursion but a repetition.
"""

from __future__ import annotations

from llamahost.text.gbnf import read
from llamahost.text.grammar_tree import (
    ANY,
    Chars,
    Choice,
    Grammar,
    Node,
    Ref,
    Repeat,
    Sequence,
    TokenRef,
    children,
    refs,
)
from llamahost.text.least import least


def to_lark(text: str, param: str) -> str:
    """The grammar in Lark. Raises InvalidRequest with line and column."""
    rules = {name: _unrolled(name, node) for name, node in read(text, param).rules.items()}
    return _Writer(Grammar(rules)).text()


class _Writer:
    """One grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self._rules = grammar.rules
        regular = _regular(grammar)
        self._regular = regular if "root" in regular else set[str]()
        numbers = {name: k for k, name in enumerate(grammar.rules)}
        self._names = {name: f"{'R' if name in self._regular else 'r'}{k}" for name, k in numbers.items()}

    def text(self) -> str:
        lines = [f"start: {self._names['root']}"]
        lines += [f"{self._names[name]}: {self._alternatives(node)}" for name, node in self._rules.items()]
        return "\n".join(lines)

    def _alternatives(self, node: Node) -> str:
        if isinstance(node, Choice):
            return " | ".join(self._sequence(option) for option in node.options)
        return self._sequence(node)

    def _sequence(self, node: Node) -> str:
        if isinstance(node, Sequence):
            return " ".join(self._item(item) for item in node.items) if node.items else '""'
        return self._item(node)

    def _item(self, node: Node) -> str:
        match node:
            case Chars():
                return _chars(node)
            case Ref(name, _):
                return self._names[name]
            case TokenRef(spelling):
                return spelling
            case Repeat(inner, least, most):
                return self._repeat(inner, least, most)
        return f"({self._alternatives(node)})"

    def _repeat(self, inner: Node, least: int, most: int | None) -> str:
        if most == 0:
            return '""'
        item = self._item(inner)
        if isinstance(inner, Repeat):
            item = f"({item})"
        if (least, most) == (1, 1):
            return item
        sign = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
        if sign is None:
            sign = f"{{{least},}}" if most is None else f"{{{least},{most}}}"
        return item + sign


def _chars(chars: Chars) -> str:
    if chars == ANY:
        return "/(?s:.)/"
    return f"/[{''.join(_range(low, high) for low, high in chars.ranges)}]/"


def _range(low: int, high: int) -> str:
    return f"\\x{{{low:X}}}" if low == high else f"\\x{{{low:X}}}-\\x{{{high:X}}}"


def _regular(grammar: Grammar) -> set[str]:
    """Rules that reach no recursion and no token."""
    needs = {name: {ref.name for ref in refs(node)} for name, node in grammar.rules.items()}
    with_tokens = {name for name, node in grammar.rules.items() if _has_token(node)}
    return least(needs, lambda name, found: name not in with_tokens and needs[name] <= found)


def _has_token(node: Node) -> bool:
    return isinstance(node, TokenRef) or any(_has_token(child) for child in children(node))


def _unrolled(name: str, node: Node) -> Node:
    """`r: a r | b` as `r: a* b`, where r stands nowhere else in it."""
    options = node.options if isinstance(node, Choice) else (node,)
    again: list[Node] = []
    ends: list[Node] = []
    for option in options:
        items = option.items if isinstance(option, Sequence) else (option,)
        if items and isinstance(items[-1], Ref) and items[-1].name == name:
            again.append(Sequence(items[:-1]))
        else:
            ends.append(option)
    if not again or not ends or any(ref.name == name for part in (*again, *ends) for ref in refs(part)):
        return node
    return Sequence((Repeat(Choice(tuple(again)), 0, None), Choice(tuple(ends))))
