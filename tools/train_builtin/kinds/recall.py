"""Recalling what was said earlier in the conversation: names, numbers, lists, with other talk in between."""

from __future__ import annotations

from tools.train_builtin.draw import Drawer, Example, Turn
from tools.train_builtin.kinds import facts, numbers, talk
from tools.train_builtin.kinds.words import COLOURS, DAYS

_KEYS = [
    "favourite colour", "dog", "cat", "city", "lucky number", "code", "friend", "boss", "street", "password", "team",
    "favourite food", "favourite day", "room number", "teacher", "sister", "brother", "hobby", "horse", "project",
    "flat", "ticket", "seat", "badge", "boat",
]  # fmt: skip


def recall(d: Drawer) -> Example:
    n_told = d.number(1, 3)
    n_other = 0 if not d.held and d.chance(0.3) else d.number(1, 3)
    if d.held:
        n_told, n_other = 2, 1  # the question is the fourth turn
    return _recalled(d, "recall", n_told, n_other)


def far(d: Drawer) -> Example:
    """Over more turns than a newcomer would believe to matter: what is near is found otherwise than what is far."""
    return _recalled(d, "recall, far", 2, 20 if d.held else d.number(4, 24))


def _recalled(d: Drawer, kind: str, n_told: int, n_other: int) -> Example:
    told = [_name, _list, _thing, _thing, _thing]
    makers = d.some(told, n_told)
    known: set[str] = set()
    pieces = [make(d, known) for make in makers]
    events: list[tuple[str, str]] = [piece[0] for piece in pieces] + [_other(d) for _ in range(n_other)]
    d.random.shuffle(events)
    questions = [piece[1] for piece in pieces]
    d.random.shuffle(questions)
    if d.held:
        questions = questions[:1]
    turns: list[Turn] = []
    for question, answer in events + questions:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Example(kind, tuple(turns), n_graded=len(questions))


def _name(d: Drawer, known: set[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    name = d.person()
    say = d.pick(["My name is {}.", "I am {}.", "Hello, I am {}.", "Call me {}.", "Hi, my name is {}"]).format(name)
    ask = d.noisy(d.pick(["What is my name?", "What am I called?", "Do you remember my name?", "Who am I?"]))
    return (d.noisy(say) if d.chance(0.3) else say, f"Nice to meet you, {name}."), (ask, f"Your name is {name}.")


def _thing(d: Drawer, known: set[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    while True:
        key = d.pick(_KEYS) if d.chance(0.85) else d.made_up()
        if key not in known:
            break
    known.add(key)
    r = d.number(0, 4)
    if r == 0:
        value = str(d.number(0, 999))
    elif r == 1:
        value = d.pick([*COLOURS, *DAYS])
    else:
        value = d.person() if r == 2 else d.made_up() if r == 3 else d.thing()
    say = d.pick(["My {} is {}.", "Remember: my {} is {}.", "Please note that my {} is {}.", "My {} is called {}."])
    ask = d.pick(["What is my {}?", "Do you remember my {}?", "Tell me my {}.", "What did I say my {} is?"])
    return (say.format(key, value), f"Noted: your {key} is {value}."), (ask.format(key), f"Your {key} is {value}.")


def _list(d: Drawer, known: set[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    words = [d.thing() for _ in range(d.number(2, 4))]
    text = ", ".join(words)
    say = d.pick(["Remember these words: {}.", "Keep this list: {}.", "My list is {}.", "Remember {}."]).format(text)
    if d.chance(0.4):
        i = d.number(0, len(words) - 1)
        place = "last" if i == len(words) - 1 else facts.ORDINALS[i]
        ask, answer = f"What was the {place} word of the list?", f"The {place} word was {words[i]}."
    else:
        ask = d.pick(["What is on my list?", "Say the list again.", "Which words did I give you?", "What was my list?"])
        answer = f"Your list is {text}."
    return (say, f"Noted: {text}."), (ask, answer)


def _other(d: Drawer) -> tuple[str, str]:
    make = d.pick([facts.fact, talk.small_talk, numbers.sum_])
    while True:
        made = make(Drawer(d.number(0, 10**9)))  # what is between need not be unseen
        if not made.is_thinking:
            return made.turns[0]["content"], made.turns[1]["content"]
