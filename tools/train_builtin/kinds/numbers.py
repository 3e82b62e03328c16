"""Arithmetic on small numbers, said directly or thought through first; larger and smaller; counting on.

One pair of numbers in ten is held out from all training; of sums and differences one in thirty, so that no pair of
last digits is missing altogether.
"""

from __future__ import annotations

from tools.train_builtin.draw import Drawer, Example

ASK = ["What is {}?", "{}", "{} =", "{}?", "Calculate {}.", "How much is {}?", "Work out {}.", "Compute {}", "Solve {}.",
       "What does {} make?", "Tell me what {} is."]  # fmt: skip
SIGNS = {"+": ["+", "+", "+", "plus"], "-": ["-", "-", "-", "minus"], "*": ["*", "*", "x", "times"]}


def is_held(a: int, b: int) -> bool:
    return (a * 31 + b * 17) % 10 == 3


def is_held_sum(a: int, b: int) -> bool:
    """Of those one in three: whether the last digits carry is to be learned, not to be guessed."""
    return is_held(a, b) and (a // 10 + b // 10) % 3 == 0


def two(d: Drawer) -> Example:
    """A sum or a difference, whose result alone is its fact."""
    sign = d.pick("++-")
    a, b, result = _pair(d, sign, 99)
    question = d.noisy(d.pick(ASK).format(f"{a} {d.pick(SIGNS[sign])} {b}"))
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": f"{a} {sign} {b} = {result}"})
    return Example("arithmetic", turns, facts=(str(result),))


def sum_(d: Drawer) -> Example:
    sign = d.pick("++++---*")
    a, b, result = _pair(d, sign, 99 if d.held or d.chance(0.75) else 9)
    spoken = f"{a} {d.pick(SIGNS[sign])} {b}"
    if d.chance(0.1):
        spoken = spoken.replace(" ", "") if spoken.replace(" ", "").isascii() and sign in spoken else spoken
    answer = f"{a} {sign} {b} = {result}"
    turns: tuple[dict[str, str], ...] = ({"role": "user", "content": d.noisy(d.pick(ASK).format(spoken))},)
    if sign != "*" and d.chance(0.12) and (d.held or not _shows_held(a, b, sign)):
        thought = _thought(a, b, sign, result)
        return Example("thinking", (*turns, {"role": "assistant", "content": answer, "reasoning": thought}),
                       is_thinking=True, facts=(f"= {result}",))  # fmt: skip
    kind = "multiplication" if sign == "*" else "arithmetic"
    return Example(kind, (*turns, {"role": "assistant", "content": answer}))


def sums(d: Drawer) -> Example:
    """Several at once: far more answers to learn from in as many tokens."""
    spoken: list[str] = []
    answers: list[str] = []
    for _ in range(d.number(3, 8)):
        sign = d.pick("+++--")
        a, b, result = _pair(d, sign, 99)
        spoken.append(f"{a} {sign} {b}")
        answers.append(f"{a} {sign} {b} = {result}")
    ask = d.pick(["Work out {}.", "Calculate {}.", "Solve these: {}.", "{}", "What are {}?"])
    turns = (
        {"role": "user", "content": d.noisy(ask.format(", ".join(spoken)))},
        {"role": "assistant", "content": ", ".join(answers)},
    )
    return Example("sums", turns)


def large(d: Drawer) -> str:
    """The question for what nobody here has learned: sums of larger numbers, and division."""
    if d.chance(0.3):
        spoken = f"{d.number(1, 999)} {d.pick(['/', '/', 'divided by'])} {d.number(1, 99)}"
    else:
        a, b = d.number(100, 10 ** d.number(3, 5)), d.number(1, 10 ** d.number(2, 5))
        if d.chance(0.3):
            a, b = b, a
        sign = d.pick("++-*")
        spoken = f"{a} {d.pick(SIGNS[sign])} {b}"
    return d.pick(ASK).format(spoken)


def compare(d: Drawer) -> Example:
    while True:
        a, b = d.number(0, 99), d.number(0, 99)
        if a != b and is_held(a, b) == d.held:
            break
    word, result = d.pick([("larger", max(a, b)), ("smaller", min(a, b))])
    ask = d.pick(["Which is {}, {} or {}?", "Which number is {}: {} or {}?", "What is {}, {} or {}?"])
    turns = (
        {"role": "user", "content": d.noisy(ask.format(word, a, b))},
        {"role": "assistant", "content": f"{result} is {word}."},
    )
    return Example("comparing", turns)


def _pair(d: Drawer, sign: str, high: int) -> tuple[int, int, int]:
    """Two numbers of this side of the wall, and what the sign makes of them."""
    while True:
        a, b = d.number(0, high), d.number(0, high)
        if sign == "*":
            a, b = a % 13, b % 13
        elif sign == "-" and b > a:
            a, b = b, a
        if sign != "*" and not d.held and d.chance(0.15) and not _is_close(a, b, sign):
            continue
        if (is_held if sign == "*" else is_held_sum)(a, b) == d.held:
            return a, b, {"+": a + b, "-": a - b, "*": a * b}[sign]


def _is_close(a: int, b: int, sign: str) -> bool:
    """Whether it only just carries or only just does not: what is mistaken most."""
    return a % 10 + b % 10 in (9, 10) if sign == "+" else a % 10 - b % 10 in (-1, 0)


def _shows_held(a: int, b: int, sign: str) -> bool:
    """Whether a step of the thought is itself a sum that is held out."""
    tens, ones = b // 10 * 10, b % 10
    return is_held_sum(a, tens) or is_held_sum(a + tens if sign == "+" else a - tens, ones)


def _thought(a: int, b: int, sign: str, result: int) -> str:
    tens, ones = b // 10 * 10, b % 10
    between = a + tens if sign == "+" else a - tens
    return f"{b} is {tens} and {ones}. {a} {sign} {tens} = {between}, {between} {sign} {ones} = {result}."
