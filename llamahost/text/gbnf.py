"""Read GBNF, llama.cpp's grammars, as llama.cpp reads it. Knows its syntax; knows no other notation (`text/lark`
writes what is read here), and of rules (`grammar_tree`) only what makes them unusable.

    rule      name ::= alternatives, to the end of the line; groups and what follows ::= or | may go on in the next
    element   "literal" · [class] · [^class] · . · name · ( alternatives ) · <token> · <[id]> · !<[id]>
    repeated  * + ? {m} {m,} {m,n} after an element, of which a literal is one
    escapes   \\n \\r \\t \\\\ \\" \\[ \\] \\- \\xHH \\uHHHH \\UHHHHHHHH
    comment   # to the end of the line

Whatever is wrong is an InvalidRequest that says where: line and column, from 1.
"""

from __future__ import annotations

from llamahost.core.errors import InvalidRequest
from llamahost.text.grammar_tree import (
    ANY,
    LAST,
    SURROGATES,
    Chars,
    Choice,
    Grammar,
    Node,
    Range,
    Ref,
    Repeat,
    Sequence,
    TokenRef,
    left_recursive,
    merged,
    negated,
    refs,
)

MAX_RULES = 2000
MAX_DEPTH = 50
"""Groups within groups."""

MAX_REPEATED = 2000
"""Times that an element may be asked for, as in llama.cpp."""

MAX_STACKED = 4
"""Repetitions of a repetition, as in `a{2}*`. With MAX_DEPTH this bounds how deep a grammar is nested, and so how deep
whoever walks it recurses: far below where Python ends that.
"""


def read(text: str, param: str) -> Grammar:
    """Raises InvalidRequest with line and column."""
    reader = _Reader(text, param)
    rules = reader.rules()
    if "root" not in rules:
        raise InvalidRequest(f"`{param}`: a grammar begins with the rule `root`, and there is none", param=param)
    for _, node in rules.values():
        for ref in refs(node):
            if ref.name not in rules:
                raise reader.error(f"the rule `{ref.name}` is not defined", ref.at)
    nodes = {name: node for name, (_, node) in rules.items()}
    loop = left_recursive(nodes)
    if loop:
        raise reader.error(f"the rule `{loop}` is left-recursive: it can begin with itself", rules[loop][0])
    reached, waiting = {"root": nodes["root"]}, ["root"]
    for name in waiting:
        for ref in refs(nodes[name]):
            if ref.name not in reached:
                reached[ref.name] = nodes[ref.name]
                waiting.append(ref.name)
    return Grammar(reached)


class _Reader:
    """One text. `_at` is where it is read."""

    def __init__(self, text: str, param: str) -> None:
        self._text = text
        self._param = param
        self._at = 0

    def error(self, message: str, at: int | None = None) -> InvalidRequest:
        at = min(self._at if at is None else at, len(self._text))
        line = self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1) + 1
        return InvalidRequest(f"`{self._param}`: line {line}, column {column}: {message}", param=self._param)

    def rules(self) -> dict[str, tuple[int, Node]]:
        found: dict[str, tuple[int, Node]] = {}
        self._space(over_lines=True)
        while self._at < len(self._text):
            at = self._at
            name = self._name()
            self._space()
            if not self._text.startswith("::=", self._at):
                raise self.error(f"`::=` must follow the name `{name}`")
            self._at += 3
            self._space(over_lines=True)
            found[name] = (at, self._alternatives(0))  # defined twice, the last one stands
            if len(found) > MAX_RULES:
                raise self.error(f"more than {MAX_RULES} rules", at)
            if self._at < len(self._text) and self._peek() not in "\r\n":
                raise self.error(f"`{self._peek()}` cannot stand here")
            self._space(over_lines=True)
        return found

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _space(self, *, over_lines: bool = False) -> None:
        text, at = self._text, self._at
        while at < len(text):
            if text[at] == "#":
                while at < len(text) and text[at] not in "\r\n":
                    at += 1
            elif text[at] in " \t" or (over_lines and text[at] in "\r\n"):
                at += 1
            else:
                break
        self._at = at

    def _name(self) -> str:
        start = self._at
        while _is_of_name(self._peek()):
            self._at += 1
        if self._at == start:
            raise self.error("the name of a rule must stand here")
        return self._text[start : self._at]

    def _alternatives(self, depth: int) -> Node:
        options = [self._sequence(depth)]
        while self._peek() == "|":
            self._at += 1
            self._space(over_lines=True)
            options.append(self._sequence(depth))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self, depth: int) -> Node:
        items: list[Node] = []
        n_stacked = 0
        while (sign := self._peek()) and sign not in "|)" and (depth or sign not in "\r\n"):
            if sign in "*+?{":
                n_stacked += 1
                if not items:
                    raise self.error(f"`{sign}` must follow what it repeats")
                if n_stacked > MAX_STACKED:
                    raise self.error(f"more than {MAX_STACKED} repetitions of one element")
                items[-1] = self._repeat(items[-1], depth)
            elif (item := self._element(sign, depth)) is not None:
                n_stacked = 0
                items.append(item)
            else:
                break
            self._space(over_lines=depth > 0)
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _element(self, sign: str, depth: int) -> Node | None:
        if sign == '"':
            return self._literal()
        if sign == "[":
            return self._class()
        if sign == ".":
            self._at += 1
            return ANY
        if sign == "(":
            return self._group(depth + 1)
        if sign in "<!":
            return self._token()
        if _is_of_name(sign):
            at = self._at
            return Ref(self._name(), at)
        return None

    def _literal(self) -> Node:
        start = self._at
        self._at += 1
        codes: list[int] = []
        while self._peek() != '"':
            if not self._peek():
                raise self.error("the string has no end", start)
            codes.append(self._character())
        self._at += 1
        chars = tuple(Chars(((code, code),)) for code in codes)
        return chars[0] if len(chars) == 1 else Sequence(chars)

    def _class(self) -> Node:
        start = self._at
        self._at += 1
        is_negated = self._peek() == "^"
        self._at += is_negated
        ranges: list[Range] = []
        while self._peek() != "]":
            if not self._peek():
                raise self.error("the class has no end", start)
            at = self._at
            low = high = self._character(in_class=True)
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._character(in_class=True)
            if high < low:
                raise self.error("the range ends before it begins", at)
            ranges.append((low, high))
        self._at += 1
        if not ranges:
            raise self.error("the class is empty; `.` is any character", start)
        found = merged(ranges)
        found = negated(found) if is_negated else found
        if not found:
            raise self.error("the class has no character", start)
        return Chars(found)

    def _character(self, *, in_class: bool = False) -> int:
        at = self._at
        sign = self._peek()
        self._at += 1
        if sign != "\\":
            return ord(sign)
        escape = self._peek()
        self._at += 1
        if escape and escape in 'nrt\\"[]-':
            return ord({"n": "\n", "r": "\r", "t": "\t"}.get(escape, escape))
        n = {"x": 2, "u": 4, "U": 8}.get(escape, 0)
        digits = self._text[self._at : self._at + n]
        if not n:
            raise self.error(f"the escape `\\{escape}` is not known", at)
        if len(digits) < n or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise self.error(f"`\\{escape}` must be followed by {n} hexadecimal digits", at)
        self._at += n
        code = int(digits, 16)
        if code > LAST or (not in_class and SURROGATES[0] <= code <= SURROGATES[1]):
            raise self.error(f"`\\{escape}{digits}` is no character", at)
        return code

    def _group(self, depth: int) -> Node:
        start = self._at
        if depth > MAX_DEPTH:
            raise self.error(f"groups are nested more than {MAX_DEPTH} deep")
        self._at += 1
        self._space(over_lines=True)
        inner = self._alternatives(depth)
        if self._peek() != ")":
            raise self.error(f"`{self._peek()}` cannot stand here" if self._peek() else "the group has no end", start)
        self._at += 1
        # A wrapping of its own, so that what repeats it repeats all of it.
        return inner if isinstance(inner, Choice) else Sequence((inner,))

    def _token(self) -> Node:
        start = self._at
        is_negated = self._peek() == "!"
        self._at += is_negated
        end = self._text.find(">", self._at)
        if self._peek() != "<" or end < 0 or "\n" in self._text[self._at : end]:
            raise self.error("a token is written <name> or <[id]>", start)
        name = self._text[self._at + 1 : end]
        self._at = end + 1
        is_number = name.startswith("[") and name.endswith("]") and name[1:-1].isdecimal() and name.isascii()
        if is_number and len(name) < 12:
            return TokenRef(f"<[^{name[1:-1]}]>" if is_negated else f"<[{name[1:-1]}]>")
        if is_negated:
            raise self.error("a token that must not come is written !<[id]>", start)
        if not name or any(sign.isspace() or sign in '<"' for sign in name) or name[0] == "[":
            raise self.error("a token is written <name> or <[id]>", start)
        return TokenRef(f"<{name}>")

    def _repeat(self, node: Node, depth: int) -> Node:
        sign, at = self._peek(), self._at
        self._at += 1
        if sign != "{":
            return Repeat(node, int(sign == "+"), 1 if sign == "?" else None)
        over_lines = depth > 0
        self._space(over_lines=over_lines)
        least = self._number()
        self._space(over_lines=over_lines)
        most: int | None = least
        if self._peek() == ",":
            self._at += 1
            self._space(over_lines=over_lines)
            most = self._number() if self._peek().isdecimal() else None
            self._space(over_lines=over_lines)
        if self._peek() != "}":
            raise self.error("a repetition is written {m}, {m,} or {m,n}", at)
        self._at += 1
        if least > MAX_REPEATED or (most is not None and most > MAX_REPEATED):
            raise self.error(f"at most {MAX_REPEATED} repetitions", at)
        if most is not None and most < least:
            raise self.error("the repetition ends before it begins", at)
        return Repeat(node, least, most)

    def _number(self) -> int:
        start = self._at
        while self._peek() and self._peek() in "0123456789":
            self._at += 1
        if self._at == start or self._at - start > 9:
            raise self.error("a number must stand here", start)
        return int(self._text[start : self._at])


def _is_of_name(sign: str) -> bool:
    return sign.isascii() and (sign.isalnum() or sign in "-_") if sign else False
