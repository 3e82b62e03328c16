"""Write a GBNF grammar in llguidance's Lark, of exactly the same language. Knows both notations.

llguidance reads a text in lexemes, and takes the longest that any rule could want there, so that `"ab" "c" | "abc" "d"`
does not derive `abc`. Two ways of writing keep clear of that:

- A grammar without recursion is one lexeme, a regular expression put together of named ones.
- One with recursion is written in lexemes that are surely never too long (`lexemes` finds them: numbers, strings, words
  with the space behind them), and else in single characters, of which none is longer than another.

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
from llamahost.text.lexemes import Unit, unit_of, units


def to_lark(text: str, param: str) -> str:
    """The grammar in Lark. Raises InvalidRequest with line and column."""
    rules = {name: _unrolled(name, node) for name, node in read(text, param).rules.items()}
    return _Writer(Grammar(rules)).text()


class _Writer:
    """One grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self._rules = grammar.rules
        self._regular = _regular(grammar)
        self._units = (
            units(grammar.rules, self._regular) if "root" not in self._regular else frozenset({Ref("root", 0)})
        )
        self._numbers = {name: k for k, name in enumerate(grammar.rules)}
        self._in_lexeme = False
        self._lexemes: dict[Unit, str] = {}  # those without a rule of their own, by their names

    def text(self) -> str:
        start = Ref("root", 0)
        lines = [f"start: {self._item(start)}"]
        lines += self._rest(self._reached(start, in_lexemes=False), in_lexeme=False)
        lines += self._rest(self._reached(start, in_lexemes=True), in_lexeme=True)
        self._in_lexeme = True
        lines += [f"{name}: {self._alternatives(unit)}" for unit, name in self._lexemes.items()]
        return "\n".join(lines)

    def _rest(self, names: list[str], *, in_lexeme: bool) -> list[str]:
        self._in_lexeme = in_lexeme
        return [f"{self._name(name)}: {self._alternatives(self._rules[name])}" for name in names]

    def _reached(self, start: Node, *, in_lexemes: bool) -> list[str]:
        """Rules that are wanted as lexemes, or in them; or as rules. In order."""
        found: set[tuple[str, bool]] = set()
        stack = [(start, False)]
        while stack:
            node, is_inner = stack.pop()
            unit = unit_of(node, self._regular)
            is_inner = is_inner or (unit is not None and unit in self._units)
            if isinstance(node, Ref) and (node.name, is_inner) not in found:
                found.add((node.name, is_inner))
                stack.append((self._rules[node.name], is_inner))
            stack += [(child, is_inner) for child in children(node)]
        return [name for name in self._rules if (name, in_lexemes) in found]

    def _name(self, rule: str) -> str:
        return f"{'R' if self._in_lexeme else 'r'}{self._numbers[rule]}"

    def _alternatives(self, node: Node) -> str:
        if isinstance(node, Choice):
            return " | ".join(self._sequence(option) for option in node.options)
        return self._sequence(node)

    def _sequence(self, node: Node) -> str:
        if isinstance(node, Sequence) and not (not self._in_lexeme and unit_of(node, self._regular) in self._units):
            return " ".join(self._item(item) for item in node.items) if node.items else '""'
        return self._item(node)

    def _item(self, node: Node) -> str:
        unit = None if self._in_lexeme else unit_of(node, self._regular)
        if unit in self._units:
            assert unit is not None
            if isinstance(unit, Ref):
                return f"R{self._numbers[unit.name]}"
            if not isinstance(unit, Chars):
                return self._lexemes.setdefault(unit, f"L{len(self._lexemes)}")
        match node:
            case Chars():
                return _chars(node)
            case Ref(name, _):
                return self._name(name)
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
