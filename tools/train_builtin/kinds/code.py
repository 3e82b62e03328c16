"""Short Python functions, asked for in words, and their middles (prefix, suffix, middle).

Held out are the last ways to ask, and of middles the names of arguments: those are made up there.
"""

from __future__ import annotations

import keyword

from tools.train_builtin.draw import Drawer, Example

PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"

# Name, what it does, arguments, body. {a} and {b} are the arguments' names.
FUNCTIONS = [
    ("add", "adds two numbers", 2, "return {a} + {b}"),
    ("subtract", "subtracts two numbers", 2, "return {a} - {b}"),
    ("multiply", "multiplies two numbers", 2, "return {a} * {b}"),
    ("divide", "divides two numbers", 2, "return {a} / {b}"),
    ("remainder", "gives the remainder of two numbers", 2, "return {a} % {b}"),
    ("power", "raises a number to a power", 2, "return {a} ** {b}"),
    ("largest", "gives the larger of two numbers", 2, "return max({a}, {b})"),
    ("smallest", "gives the smaller of two numbers", 2, "return min({a}, {b})"),
    ("double", "doubles a number", 1, "return {a} * 2"),
    ("square", "squares a number", 1, "return {a} * {a}"),
    ("negate", "negates a number", 1, "return -{a}"),
    ("is_even", "tells whether a number is even", 1, "return {a} % 2 == 0"),
    ("is_odd", "tells whether a number is odd", 1, "return {a} % 2 == 1"),
    ("is_positive", "tells whether a number is positive", 1, "return {a} > 0"),
    ("is_empty", "tells whether a list is empty", 1, "return len({a}) == 0"),
    ("length", "gives the length of a list", 1, "return len({a})"),
    ("first", "gives the first item of a list", 1, "return {a}[0]"),
    ("last", "gives the last item of a list", 1, "return {a}[-1]"),
    ("total", "sums a list", 1, "return sum({a})"),
    ("average", "gives the average of a list", 1, "return sum({a}) / len({a})"),
    ("reverse", "reverses a list", 1, "return {a}[::-1]"),
    ("sort", "sorts a list", 1, "return sorted({a})"),
    ("unique", "removes doubles from a list", 1, "return list(set({a}))"),
    ("shout", "writes a text in capitals", 1, "return {a}.upper()"),
    ("whisper", "writes a text in small letters", 1, "return {a}.lower()"),
    ("greet", "greets a person by name", 1, 'return "Hello, " + {a}'),
    ("join", "joins two texts", 2, "return {a} + {b}"),
    ("contains", "tells whether a list contains an item", 2, "return {b} in {a}"),
    ("count", "counts an item in a list", 2, "return {a}.count({b})"),
    ("words", "splits a text into words", 1, "return {a}.split()"),
    ("absolute", "gives the absolute value of a number", 1, "if {a} < 0:\n        return -{a}\n    return {a}"),
    ("sign", "gives the sign of a number", 1, "if {a} > 0:\n        return 1\n    if {a} < 0:\n        return -1\n    return 0"),
    ("factorial", "gives the factorial of a number", 1,
     "result = 1\n    for i in range(1, {a} + 1):\n        result *= i\n    return result"),
    ("evens", "keeps the even numbers of a list", 1, "return [x for x in {a} if x % 2 == 0]"),
    ("squares", "squares every number of a list", 1, "return [x * x for x in {a}]"),
    ("countdown", "prints the numbers from a number down to one", 1,
     "while {a} > 0:\n        print({a})\n        {a} -= 1"),
]  # fmt: skip
ASK = [
    "Write a Python function that {}.", "Write a function that {}.", "Python function that {}", "Code a function that {}.",
    "I need a function that {}.", "Show me Python code that {}.", "Make a function that {}.", "Give me a function that {}.",
]  # fmt: skip
ASK_TO = [
    "Write a Python function to {}.", "Write a function to {}.", "I need a function to {}.", "Python function to {}",
    "Write Python code to {}.", "Show me a function to {}.", "Write code to {}.", "Can you write a function to {}?",
]  # fmt: skip
_FIRST = ["a", "x", "n", "value", "item", "left"]
_SECOND = ["b", "y", "m", "other", "right", "second"]


def function(d: Drawer) -> Example:
    name, does, n, body = d.pick(FUNCTIONS)
    ask = d.pick(d.split(ASK)).format(does) if d.held or d.chance(0.5) else d.pick(ASK_TO).format(_to(does))
    a, b = ("a", "b") if d.chance(0.5) else (d.pick(_FIRST), d.pick(_SECOND)) if d.chance(0.7) else _made_up(d)
    if (a, b) != ("a", "b"):
        names = f"{a} and {b}" if n == 2 else a
        ask = f"{ask.rstrip('.')}; name the argument{'s' if n == 2 else ''} {names}."
    if d.chance(0.3):
        name = d.made_up()
        ask = f"{ask.rstrip('.')}. Call it {name}."
    turns = ({"role": "user", "content": d.noisy(ask)}, {"role": "assistant", "content": _text(name, n, body, a, b)})
    return Example("code", turns)


def middle(d: Drawer) -> Example:
    name, _, n, body = d.pick(FUNCTIONS)
    if not d.held and d.chance(0.3):  # where it is held out the name must tell what the body is
        name = d.made_up()
    names = _made_up(d) if d.held or d.chance(0.3) else (d.pick(_FIRST), d.pick(_SECOND))
    text = _text(name, n, body, *names) + "\n"
    start = (
        d.pick([text.index("\n") + 5, text.index("(") + 1, d.number(4, len(text) - 4)])
        if not d.held
        else text.index("\n") + 5
    )
    end = text.index("\n", start) if d.chance(0.7) or d.held else d.number(start, len(text))
    given = f"{PREFIX}{text[:start]}{SUFFIX}{text[end:]}{MIDDLE}"
    return Example("middles", (), raw=(given, text[start:end]))


def _to(does: str) -> str:
    """Adds two numbers: to add two numbers."""
    verb, _, rest = does.partition(" ")
    return f"{verb[:-3]}y {rest}" if verb.endswith("ies") else f"{verb[:-1]} {rest}"


def _made_up(d: Drawer) -> tuple[str, str]:
    """Two names that are no words of the language."""
    while True:
        a, b = d.made_up(), d.made_up()
        if a != b and not keyword.iskeyword(a) and not keyword.iskeyword(b):
            return a, b


def _text(name: str, n: int, body: str, a: str, b: str) -> str:
    arguments = f"{a}, {b}" if n == 2 else a
    return f"def {name}({arguments}):\n    {body.format(a=a, b=b)}"
