"""How much of each kind, and when: the curriculum. Knows kinds by name; knows no tokens.

Look-ups come first and thin out: copying is what names, arguments, recall and JSON are all made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tools.train_builtin.draw import Drawer, Example, Turn
from tools.train_builtin.kinds import calls, code, facts, filling, lists, numbers, obey, product, recall, talk

Maker = Callable[[Drawer], Example]

KINDS: dict[str, tuple[Maker, float, float]] = {  # its share at the start, its share later
    "lookup": (lists.induction, 12.0, 1.0),
    "arithmetic": (numbers.sum_, 4.0, 14.0),
    "sums": (numbers.sums, 2.0, 8.0),
    "comparing": (numbers.compare, 0.5, 1.0),
    "capitals": (facts.capital, 2.0, 12.0),
    "facts": (facts.fact, 2.0, 14.0),
    "talk": (talk.small_talk, 2.0, 16.0),
    "unknown": (talk.unknown, 0.5, 1.5),
    "beyond": (talk.beyond, 0.5, 4.0),
    "llamahost": (product.product, 3.0, 95.0),
    "recall": (recall.recall, 4.0, 6.0),
    "recall, far": (recall.far, 0.5, 5.0),
    "lists": (lists.listing, 4.0, 9.0),
    "filling": (filling.filling, 4.0, 18.0),
    "calls": (calls.call, 3.0, 24.0),
    "choosing": (calls.choosing, 1.0, 32.0),
    "results": (calls.answer_from_result, 1.0, 1.0),
    "obeying": (obey.obey, 1.0, 15.0),
    "plain": (obey.plain, 0.5, 1.5),
    "code": (code.function, 1.0, 6.0),
    "middles": (code.middle, 1.0, 9.0),
}
JOINED = ("arithmetic", "comparing", "capitals", "facts", "talk", "unknown", "beyond", "llamahost", "lists", "code")
"""Kinds of one question, which are also joined to longer conversations."""

HASTY = ("capitals", "facts", "llamahost")
"""Kinds whose questions are also asked in fewer words, or in any order: it is the words that are to be known."""

NO_THOUGHT = "There is nothing to work out."


def stream(seed: int, progress: Callable[[], float], pieces: Sequence[str] = ()) -> Iterator[Example]:
    """Training examples without end; `progress` is between 0 and 1 and says where the curriculum stands."""
    d = Drawer(seed, pieces=pieces)
    names = list(KINDS)
    while True:
        late = min(1.0, progress() / 0.15)
        weights = [early + (later - early) * late for _, early, later in KINDS.values()]
        name = d.random.choices(names, weights)[0]
        made = _joined(d, names, weights) if name in JOINED and d.chance(0.6) else _made(d, name)
        yield _thoughtful(made) if d.chance(0.05) else made


def held_out(maker_of: str, kind: str, seed: int, n: int) -> list[Example]:
    """`n` examples of this kind from the other side of the wall; one maker may make several kinds."""
    maker = KINDS[maker_of][0]
    d = Drawer(seed, held=True)
    made: list[Example] = []
    while len(made) < n:
        example = maker(d)
        if example.kind == kind:
            made.append(example)
    return made


def _made(d: Drawer, name: str) -> Example:
    made = KINDS[name][0](d)
    if name not in HASTY:
        return made
    *before, asked, answer = made.turns
    text = d.hasty(asked["content"])
    return made if product.is_held(text) else replace(made, turns=(*before, {**asked, "content": text}, answer))


def _thoughtful(made: Example) -> Example:
    """The same with thinking on, where there is nothing to think: else nothing but sums would be answered so."""
    last = made.turns[-1] if made.turns else {"content": "="}
    if made.is_thinking or "=" in last["content"]:
        return made
    turns = (*made.turns[:-1], {**last, "reasoning": NO_THOUGHT})
    return replace(made, turns=turns, is_thinking=True, n_graded=1)


def _joined(d: Drawer, names: list[str], weights: list[float]) -> Example:
    """Two to five questions of any kind, one after the other."""
    shares = [weight if name in JOINED else 0.0 for name, weight in zip(names, weights, strict=True)]
    turns: list[Turn] = []
    n = d.number(2, 5)
    while len(turns) < 2 * n:
        made = _made(d, d.random.choices(names, shares)[0])
        if not made.is_thinking:
            turns += made.turns
    return Example("joined", tuple(turns), n_graded=n)
