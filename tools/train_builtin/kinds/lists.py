"""Copying, reversing, sorting and picking from short lists; copying strings as they stand."""

from __future__ import annotations

from tools.train_builtin.draw import Drawer, Example
from tools.train_builtin.kinds.facts import ORDINALS


def listing(d: Drawer) -> Example:
    make = d.pick([_copy, _copy, _reverse, _sort, _pick, _count])
    ask, answer = make(d)
    return Example("lists", ({"role": "user", "content": ask}, {"role": "assistant", "content": answer}))


def induction(d: Drawer) -> Example:
    """The dense form of copying, which teaches it in few tokens: a table, and many look-ups in it."""
    n = d.number(3, 7)
    keys = [d.made_up() for _ in range(n)]
    values = [str(d.number(0, 999)) if d.chance(0.2) else _word(d) for _ in range(n)]
    order = [d.number(0, n - 1) for _ in range(d.number(3, 6))]
    table = ", ".join(f"{k} = {v}" for k, v in zip(keys, values, strict=True))
    turns = [
        {"role": "user", "content": f"{table}. {keys[order[0]]}?"},
        {"role": "assistant", "content": values[order[0]]},
    ]
    for i in order[1:]:
        turns += [{"role": "user", "content": f"{keys[i]}?"}, {"role": "assistant", "content": values[i]}]
    return Example("lookup", tuple(turns), n_graded=len(order))


def _word(d: Drawer) -> str:
    """What is to be copied piece by piece."""
    return d.pick([d.made_up, d.made_up, d.coined, d.date])()


def _words(d: Drawer, low: int, high: int) -> list[str]:
    if d.chance(0.25):
        return [str(n) for n in d.some(range(100), d.number(low, high))]
    return list(dict.fromkeys(d.thing() for _ in range(d.number(low, high))))


def _copy(d: Drawer) -> tuple[str, str]:
    r = d.number(0, 3)
    if r == 0:
        text = "".join(d.pick("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(d.number(3, 8)))
    elif r == 1:
        text = " ".join(_word(d) for _ in range(d.number(1, 4)))
    else:
        text = ", ".join(_words(d, 2, 6))
    ask = d.pick(["Repeat: {}", "Say this again: {}", "Copy this: {}", "Repeat after me: {}", "Echo {}", "Say {}"])
    return ask.format(text), text


def _reverse(d: Drawer) -> tuple[str, str]:
    words = _words(d, 2, 5)
    ask = d.pick(["Reverse the list: {}", "Reverse: {}", "Say these in reverse order: {}", "Turn the list around: {}"])
    return ask.format(", ".join(words)), ", ".join(reversed(words))


def _sort(d: Drawer) -> tuple[str, str]:
    if d.chance(0.6):
        numbers = d.some(range(100), d.number(2, 5))
        ask = d.pick(["Sort these numbers: {}", "Sort: {}", "Put in order: {}", "Sort from small to large: {}"])
        return ask.format(", ".join(map(str, numbers))), ", ".join(map(str, sorted(numbers)))
    words = list(dict.fromkeys(d.thing() for _ in range(d.number(2, 4))))
    ask = d.pick(["Sort these words: {}", "Sort the words {}", "Put in alphabetical order: {}"])
    return ask.format(", ".join(words)), ", ".join(sorted(words))


def _pick(d: Drawer) -> tuple[str, str]:
    words = _words(d, 2, 5)
    i = d.number(0, len(words) - 1)
    place = "last" if i == len(words) - 1 and d.chance(0.5) else ORDINALS[i]
    return d.pick(["What is the {} of {}?", "Name the {} of {}.", "Give me the {} of {}"]).format(
        place, ", ".join(words)
    ), words[i]


def _count(d: Drawer) -> tuple[str, str]:
    words = _words(d, 2, 6)
    return d.pick(["How many words are these: {}", "How many are there: {}", "Count: {}"]).format(
        ", ".join(words)
    ), str(len(words))
