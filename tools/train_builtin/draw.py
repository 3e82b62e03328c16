"""What every kind of example is made from: one seed, pools of words, made-up names. Knows no kind.

`held` is the other side of the wall: a drawer that is held out takes wordings, nouns and pairs of numbers that no
training example ever shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tools.train_builtin.kinds.words import (
    CITIES,
    ENDINGS,
    ENDS,
    HELD_NOUNS,
    NAMES,
    ONSETS,
    OPENINGS,
    PIECES,
    SMALL_WORDS,
    THINGS,
    VOWELS,
)

T = TypeVar("T")
Turn = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A conversation whose last turn is the assistant's; `facts` are what an answer must hold, exact when empty."""

    kind: str
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    is_thinking: bool = False
    facts: tuple[str, ...] = ()
    raw: tuple[str, str] | None = None  # no conversation: what is given, and what comes next
    n_graded: int = 1  # of the last answers; score.py looks at the last alone


@dataclass
class Drawer:
    """Owned by one generator. Equal seeds draw equal examples.

    `pieces` are what the vocabulary spells words with. A token that is never said is one that the model cannot say: so
    some made-up words are of any of them.
    """

    seed: int
    held: bool = False
    pieces: Sequence[str] = ()
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{'held' if self.held else 'train'} {self.seed}")

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random.random() * len(items))]

    def some(self, items: Sequence[T], n: int) -> list[T]:
        return self.random.sample(items, n)

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def split(self, items: Sequence[T], n_held: int = 2) -> Sequence[T]:
        """The wordings of this side of the wall: the last `n_held` are held out."""
        return items[-n_held:] if self.held else items[:-n_held]

    def made_up(self, n_min: int = 2, n_max: int = 3) -> str:
        """A word of syllables that nobody has heard."""
        if self.pieces and self.chance(0.2):
            return self.pieced()
        while True:
            n = self.number(n_min, n_max)
            word = "".join(self.pick(ONSETS) + self.pick(VOWELS) for _ in range(n)) + self.pick(ENDS)
            if word not in HELD_NOUNS:  # "train" is two sounds and an end
                return word

    def pieced(self) -> str:
        """A word of any pieces of the vocabulary; of syllables where there is none."""
        while self.pieces:
            word = "".join(self.pick(self.pieces) for _ in range(self.number(1, 3)))
            if word not in HELD_NOUNS:
                return word
        return self.made_up()

    def coined(self) -> str:
        """A word that sounds like English, of pieces that words are made of."""
        while True:
            word = "".join(self.pick(PIECES) for _ in range(self.number(1, 2))) + self.pick(ENDINGS)
            if word not in HELD_NOUNS:
                return word

    def date(self) -> str:
        return f"20{self.number(10, 39)}-{self.number(1, 12):02}-{self.number(1, 28):02}"

    def person(self) -> str:
        return self.made_up().capitalize() if self.chance(0.5) else self.pick(NAMES)

    def place(self) -> str:
        return self.made_up().capitalize() if self.chance(0.5) else self.pick(CITIES)

    def thing(self) -> str:
        return self.made_up() if self.chance(0.3) else self.pick(THINGS)

    def noisy(self, text: str) -> str:
        """The same question as a person types it."""
        r = self.random.random()
        if r < 0.15:
            text = text[:1].lower() + text[1:]
        elif r < 0.25:
            text = text.lower()
        if self.chance(0.15):
            text = text.rstrip("?.!")
        if self.chance(0.06):
            text = self.pick(OPENINGS) + text[:1].lower() + text[1:]
        return text

    def hasty(self, text: str) -> str:
        """What is left of a question when some of its small words are left out, as people search; sometimes in any
        order. Of what is held out nothing is."""
        if self.held or self.chance(0.75):
            return text
        kept = [each for each in text.split() if each.lower().strip("?.!,:") not in SMALL_WORDS or self.chance(0.5)]
        if self.chance(0.3):
            kept = [each.strip("?.!,:") for each in kept]
            self.random.shuffle(kept)
        return " ".join(kept) or text
