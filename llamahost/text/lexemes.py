"""Find the parts of a grammar that a lexer may read as one. Knows grammars as trees; knows no notation.

A lexer takes the longest that any lexeme may be. A part is read as one lexeme if that is never too long: wherever some
text of a lexeme could go on as this one or as another, what goes on there is nothing that may follow the first. What
fails is read in smaller parts, at last in single characters, of which none is longer than another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llamahost.text.grammar_tree import Chars, Choice, Node, Ref, Repeat, Sequence, children, is_nullable, nullable

MAX_STEPS = 200_000
"""Of all looking, each about a microsecond: a large grammar is read in single characters rather than looked at long."""

Unit = Node
"""What is read as one: a reference to a regular rule, a literal, a class, or a repetition of one."""


def units(rules: dict[str, Node], regular: set[str]) -> frozenset[Unit]:
    """The units of a grammar that can be lexemes; where one stands in it, it may be read as one."""
    try:
        return _Search(rules, regular).found()
    except _TooLong:
        return frozenset()


class _TooLong(Exception):
    """The search has taken its steps."""


def is_literal(node: Node) -> bool:
    return isinstance(node, Sequence) and bool(node.items) and all(isinstance(item, Chars) for item in node.items)


def unit_of(node: Node, regular: set[str]) -> Unit | None:
    """The node as a unit, if it is one; a reference wherever it stands is the same."""
    if isinstance(node, Ref):
        return Ref(node.name, 0) if node.name in regular else None
    if isinstance(node, Chars) or is_literal(node):
        return node
    return node if isinstance(node, Repeat) and isinstance(node.node, Chars) else None


@dataclass(slots=True)
class _Automaton:
    """Of a unit; state 0 begins. Every state leads to an end."""

    edges: list[list[tuple[int, int]]] = field(default_factory=list)  # (atoms, state)
    empty: list[list[int]] = field(default_factory=list)
    end: int = 0

    def state(self) -> int:
        self.edges.append([])
        self.empty.append([])
        return len(self.edges) - 1

    def closure(self, states: frozenset[int]) -> frozenset[int]:
        seen, stack = set(states), list(states)
        while stack:
            for other in self.empty[stack.pop()]:
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return frozenset(seen)


class _Search:
    """One grammar. Sets of characters are bits, one for each of the atoms that no class tells apart."""

    def __init__(self, rules: dict[str, Node], regular: set[str]) -> None:
        self._rules = rules
        self._regular = regular
        self._empty = nullable(self._rules)
        self._n_steps = 0
        cuts: set[int] = set()
        stack = list(rules.values())
        while stack:
            node = stack.pop()
            if isinstance(node, Chars):
                for low, high in node.ranges:
                    cuts |= {low, high + 1}
            stack += children(node)
        self._atom_of = {cut: k for k, cut in enumerate(sorted(cuts))}  # the atom that begins at a character
        self._bits: dict[Chars, int] = {}
        self._automata: dict[Unit, _Automaton] = {}
        self._extensions: dict[tuple[Unit, Unit], int] = {}

    def found(self) -> frozenset[Unit]:
        refused: set[Unit] = set()
        firsts = self._firsts()
        while True:
            used = self._used(refused)
            follows = self._follows(refused, firsts)
            worse = {
                longer
                for one in used
                for longer in used
                if not isinstance(longer, Chars)
                and self._first(one, firsts) & self._first(longer, firsts)
                and self._extension(one, longer) & follows.get(one, 0)
            }
            if not worse:
                return frozenset(used)
            refused |= worse

    # --- what stands where ---

    def _unit(self, node: Node, refused: set[Unit]) -> Unit | None:
        unit = unit_of(node, self._regular)
        return None if unit is None or unit in refused else unit

    def _reached(self, refused: set[Unit]) -> dict[str, None]:
        """Rules that are no lexemes, from the root on, in the order in which they are found."""
        found, waiting = {"root": None}, ["root"]
        while waiting:
            stack = [self._rules[waiting.pop()]]
            while stack:
                node = stack.pop()
                self._step()
                if self._unit(node, refused) is not None:
                    continue
                if isinstance(node, Ref) and node.name not in found:
                    found[node.name] = None
                    waiting.append(node.name)
                stack += children(node)
        return found

    def _used(self, refused: set[Unit]) -> set[Unit]:
        used: set[Unit] = set()
        for name in self._reached(refused):
            stack = [self._rules[name]]
            while stack:
                node = stack.pop()
                unit = self._unit(node, refused)
                if unit is not None:
                    used.add(unit)
                else:
                    stack += children(node)
        return used

    def _firsts(self) -> dict[str, int]:
        """Of each rule the characters that it can begin with."""
        firsts = dict.fromkeys(self._rules, 0)
        is_changed = True
        while is_changed:
            is_changed = False
            for name, node in self._rules.items():
                found = self._first(node, firsts)
                if found != firsts[name]:
                    firsts[name], is_changed = found, True
        return firsts

    def _first(self, node: Node, firsts: Mapping[str, int]) -> int:
        self._step()
        match node:
            case Chars():
                return self._atoms(node)
            case Ref(name, _):
                return firsts[name]
            case Sequence(items):
                found = 0
                for item in items:
                    found |= self._first(item, firsts)
                    if not is_nullable(item, self._empty):
                        break
                return found
            case Choice(options):
                found = 0
                for option in options:
                    found |= self._first(option, firsts)
                return found
            case Repeat(inner, _, _):
                return self._first(inner, firsts)
        return 0

    def _follows(self, refused: set[Unit], firsts: Mapping[str, int]) -> dict[Unit, int]:
        """Of each unit the characters that may come next, wherever it stands."""
        of_rule = dict.fromkeys(self._rules, 0)
        of_unit: dict[Unit, int] = {}
        reached = self._reached(refused)

        def walk(node: Node, after: int) -> None:
            self._step()
            unit = self._unit(node, refused)
            if unit is not None:
                of_unit[unit] = of_unit.get(unit, 0) | after
                return
            match node:
                case Ref(name, _):
                    of_rule[name] |= after
                case Sequence(items):
                    for item in reversed(items):
                        walk(item, after)
                        after = self._first(item, firsts) | (after if is_nullable(item, self._empty) else 0)
                case Choice(options):
                    for option in options:
                        walk(option, after)
                case Repeat(inner, _, most):
                    walk(inner, after | (0 if most == 1 else self._first(inner, firsts)))

        while True:
            before = dict(of_rule), dict(of_unit)
            for name in reached:
                walk(self._rules[name], of_rule[name])
            if (of_rule, of_unit) == before:
                return of_unit

    # --- what goes on ---

    def _extension(self, one: Unit, longer: Unit) -> int:
        """Characters by which a text of the one goes on, to a text that begins one of the other."""
        if (one, longer) not in self._extensions:
            self._extensions[one, longer] = self._extended(one, longer)
        return self._extensions[one, longer]

    def _extended(self, one: Unit, longer: Unit) -> int:
        a, b = self._automaton(one), self._automaton(longer)
        begin = (a.closure(frozenset({0})), b.closure(frozenset({0})))
        seen, stack, found = {begin}, [begin], 0
        while stack:
            in_a, in_b = stack.pop()
            going = [edge for state in in_b for edge in b.edges[state]]
            if a.end in in_a and (in_a, in_b) != begin:
                for atoms, _ in going:
                    found |= atoms
            coming = [edge for state in in_a for edge in a.edges[state]]
            for atoms in self._parted([edge[0] for edge in (*coming, *going)]):
                self._step(1 + (len(coming) + len(going)) // 16)
                next_a = frozenset(state for wanted, state in coming if wanted & atoms)
                next_b = frozenset(state for wanted, state in going if wanted & atoms)
                pair = (a.closure(next_a), b.closure(next_b))
                if next_a and next_b and pair not in seen:
                    seen.add(pair)
                    stack.append(pair)
        return found

    def _parted(self, sets: list[int]) -> list[int]:
        """The same atoms in parts that no set cuts through."""
        parts: list[int] = []
        for wanted in dict.fromkeys(sets):
            self._step(1 + len(parts) // 4)
            cut: list[int] = []
            for part in parts:
                cut += [piece for piece in (part & wanted, part & ~wanted) if piece]
                wanted &= ~part
            parts = [*cut, wanted] if wanted else cut
        return parts

    def _automaton(self, unit: Unit) -> _Automaton:
        if unit not in self._automata:
            made = _Automaton()
            begin = made.state()
            made.end = self._build(made, unit, begin)
            self._automata[unit] = made
        return self._automata[unit]

    def _build(self, made: _Automaton, node: Node, begin: int) -> int:
        """From this state on; the state at its end. Counts are let go of: the more may follow, the surer."""
        self._step()
        match node:
            case Chars():
                end = made.state()
                made.edges[begin].append((self._atoms(node), end))
                return end
            case Ref(name, _):
                return self._build(made, self._rules[name], begin)
            case Sequence(items):
                for item in items:
                    begin = self._build(made, item, begin)
                return begin
            case Choice(options):
                end = made.state()
                for option in options:
                    first = made.state()
                    made.empty[begin].append(first)
                    made.empty[self._build(made, option, first)].append(end)
                return end
            case Repeat(inner, least, most):
                first, end = made.state(), made.state()
                made.empty[begin].append(first)
                last = self._build(made, inner, first)
                made.empty[last].append(end)
                if most != 1:
                    made.empty[last].append(first)
                if least == 0:
                    made.empty[first].append(end)
                return end
        raise AssertionError("a token is no text")

    def _atoms(self, chars: Chars) -> int:
        if chars not in self._bits:
            bits = 0
            for low, high in chars.ranges:
                bits |= (1 << self._atom_of[high + 1]) - (1 << self._atom_of[low])
            self._bits[chars] = bits
        return self._bits[chars]

    def _step(self, n: int = 1) -> None:
        self._n_steps += n
        if self._n_steps > MAX_STEPS:
            raise _TooLong
