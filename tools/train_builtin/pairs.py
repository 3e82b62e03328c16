"""Texts that mean the same, for sentence vectors: questions and their answers, wordings of one question, and sentences
about made-up people and things with questions about them. Knows words; knows no vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tools.train_builtin.draw import Drawer
from tools.train_builtin.kinds import facts
from tools.train_builtin.kinds.product import QUESTIONS, framed
from tools.train_builtin.kinds.relations import RELATIONS
from tools.train_builtin.kinds.words import DAYS


@dataclass(frozen=True)
class Pair:
    """Two texts that belong together. Pairs of one `key` mean the same and are no counter-examples to each other."""

    query: str
    document: str
    key: str


def pairs(seed: int) -> Iterator[Pair]:
    """Training pairs without end."""
    d = Drawer(seed)
    while True:
        share = d.random.random()
        if share < 0.25:
            yield from _made_up(d, d.number(1, 4))
        elif share < 0.85:
            yield _product(d)
        else:
            example = (facts.capital if d.chance(0.5) else facts.fact)(d)
            question, answer = (turn["content"] for turn in example.turns[-2:])
            yield Pair(question, answer, answer)


def held_questions() -> list[Pair]:
    """Every held-out wording of every question about llamahost, with its answer."""
    return [
        Pair(wording, answer, answer)
        for wordings, answer, _ in QUESTIONS
        for wording in Drawer(0, held=True).split(wordings)
    ]


def held_sentences(seed: int, n: int) -> list[Pair]:
    """Sentences about things that nobody has heard of, each asked for in a held-out wording."""
    d = Drawer(seed, held=True)
    return [pair for _ in range(n) for pair in _made_up(d, 1)]


def _product(d: Drawer) -> Pair:
    wordings, answer, _ = d.pick(QUESTIONS)
    known = d.split(wordings)
    one, other = (d.pick(known) if d.chance(0.4) else framed(d, wordings) for _ in range(2))
    return Pair(d.noisy(one), answer if d.chance(0.7) else d.noisy(other), answer)


def _made_up(d: Drawer, n: int) -> Iterator[Pair]:
    """Several things said of the same names: what is asked must be told apart as well as whom it is about."""
    values = {
        "a": d.person(),
        "b": d.person(),
        "place": d.place(),
        "thing": d.thing(),
        "made": d.made_up(),
        "day": d.pick(DAYS),
        "n": str(d.number(1, 999)),
    }
    for sentence, wordings in d.some(RELATIONS, n):
        said = sentence.format(**values)
        yield Pair(d.noisy(d.pick(d.split(wordings)).format(**values)), said, said)
