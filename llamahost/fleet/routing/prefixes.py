"""Which start of a prompt a replica is likely to hold: told by what was placed there, so that nobody has to be asked.

A prompt is a chain of digests, each of a piece of it and of all that is before. They are made of the words, not of the
tokens: the choice comes before the work that a replica does. Python's own hash makes them, keyed anew in each process;
where two differ and collide, a request is placed a little worse, and that is all. A digest is noted and forgotten at a
cost, so a long conversation has few of them: where it ends, and may go on or be asked again, one a message.

law: two chains share a digest only where their prompts share that whole start
law: of what both begin with, two chains share a digest within its last quarter, or BLOCK; and its own one, where it
     ends with a message that is among the last N_FINE of each, or within the first FINE characters
law: what is held are the last prompts placed, as many as there are slots; one that goes on takes its own one's place
law: what is said to be held was placed; a start is said to be held as far as all pieces before it are
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from llamahost.core.messages import ChatRequest, CompletionRequest, Message, Text

BLOCK = 1024
"""Characters of the first pieces of a text; further on they are a quarter of what is before them: few, however long."""

FINE = 2 * BLOCK
"""Characters within which each message ends a piece; further on a piece is at least a quarter of what is before it."""

N_FINE = 8
"""Messages at the end that each end a piece, after one of which the prompt before has ended: an answer, results of
calls, a question."""

N_CHARS_OF_TOKEN = 4
"""Characters that a token stands for in most texts."""

NOTHING = -1
"""Is no digest: no hash is."""

_NEVER = 2**63

Words = TypeVar("Words", str, Sequence[int], str | Sequence[int])


class Chain(NamedTuple):
    """`ends`: of how many characters each digest is, ascending. The last of them is `whole`, of all."""

    ends: Mapping[int, int] = {}
    whole: int = NOTHING
    n_chars: int = 0


NO_CHAIN = Chain()


def chain_of(request: ChatRequest | CompletionRequest) -> Chain:
    """Of a completion with several prompts, that of the first."""
    if isinstance(request, CompletionRequest):
        return _chain_of_completion(request)
    digest = hash((request.generation.adapters, request.thinking, *request.template_options))
    n = 0
    for tool in request.tools:
        digest = hash((digest, tool.name, tool.description))
        n += N_CHARS_OF_TOKEN * 32 + len(tool.description)
    ends: dict[int, int] = {}
    messages = request.messages
    first_fine = messages[-min(N_FINE, len(messages))]
    due, n_fine = 0, FINE  # at `due` characters the next message ends a piece
    for message in messages:
        if message is first_fine:
            due, n_fine = 0, _NEVER
        parts = message.parts
        if len(parts) == 1 and type(parts[0]) is Text and not message.tool_calls:  # what most are
            text = parts[0].text
            size = len(text)
            if size > BLOCK:
                digest, text = _cut(text, hash((digest, message.role, message.reasoning)), n, ends)
            digest = hash((digest, message.role, message.reasoning, text))
            n += size
        else:
            digest, n = _with(message, digest, n, ends)
        if n >= due:
            ends[digest] = n
            due = n + n // 4 if n > n_fine else 0
    return Chain(ends, digest, n)


def _with(message: Message, digest: int, n: int, ends: dict[int, int]) -> tuple[int, int]:
    """The digest and the characters with this message too, whatever is in it; pieces that end within it are noted."""
    calls = message.tool_calls
    digest = hash((digest, message.role, message.reasoning, calls))
    n += sum([len(call.arguments) for call in calls])
    for part in message.parts:
        if isinstance(part, Text):
            digest, rest = _cut(part.text, digest, n, ends)
            digest = hash((digest, rest))
            n += len(part.text)
        else:
            digest = hash((digest, part.data))
            n += N_CHARS_OF_TOKEN * 256
    return digest, n


def _cut(text: Words, digest: int, n: int, ends: dict[int, int], size: int = 1) -> tuple[int, Words]:
    """Of a text of `size` characters each behind n: the digest with the pieces that end within it, and what is left."""
    start, n_piece = 0, max(BLOCK, n // 4)
    while len(text) - start > n_piece:
        digest = hash((digest, _hashable(text[start : start + n_piece])))
        start += n_piece
        ends[digest] = n + size * start
        n_piece = max(BLOCK, (n + start) // 4)
    return digest, text[start:]


def _hashable(piece: Sequence[int] | str) -> object:
    if isinstance(piece, str):
        return piece
    return piece.tobytes() if isinstance(piece, array) else tuple(piece)


def _chain_of_completion(request: CompletionRequest) -> Chain:
    prompt: str | Sequence[int] = request.prompts[0] if request.prompts else ""
    digest = hash((request.generation.adapters, request.suffix if request.snippets is None else request.snippets))
    size = 1 if isinstance(prompt, str) else N_CHARS_OF_TOKEN
    ends: dict[int, int] = {}
    digest, rest = _cut(prompt, digest, 0, ends, size)
    digest, n = hash((digest, _hashable(rest))), size * len(prompt)
    ends[digest] = n
    return Chain(ends, digest, n)


_BRANCHES = 4
"""What more than so many prompts begin with is no conversation of which they are branches."""


class Held:
    """Owned by the loop. What one replica holds, as far as can be told from what it was given.

    It holds `n_prompts` at most, and `n_chars` of them together; what was used the longest ago goes first.
    """

    __slots__ = ("_n_chars", "_prompts", "_room", "_turn_of", "n_prompts")

    def __init__(self, n_prompts: int, n_chars: int) -> None:
        self.n_prompts = n_prompts
        self._room = n_chars
        self._n_chars = 0
        self._prompts: dict[int, Chain] = {}  # by the turn in which they were placed, ascending
        self._turn_of: dict[int, int] = {}  # of each digest: the last turn in which a prompt was placed that has it

    def __len__(self) -> int:
        return len(self._prompts)

    def deepest(self, chain: Chain) -> int:
        """Its longest start that is held; NOTHING where none is. From the first piece on, as most share no more."""
        deepest, held = NOTHING, self._turn_of
        for digest in chain.ends:
            if digest not in held:
                break
            deepest = digest
        return deepest

    def ends_with(self, digest: int) -> bool:
        """Whether the prompt that was placed last with it ends there."""
        turn = self._turn_of.get(digest)
        return turn is not None and self._prompts[turn].whole == digest

    def lost_at(self, chain: Chain, deepest: int) -> int:
        """In which turn that was placed which would go for this prompt; -1 where nothing would."""
        prompts = self._prompts
        if len(prompts) < self.n_prompts and self._n_chars + chain.n_chars <= self._room:
            return -1
        return -1 if self.ends_with(deepest) else next(iter(prompts), -1)

    def n_lost(self, chain: Chain, deepest: int) -> int:
        """Characters of others that would go for it, where `lost_at` says that any would."""
        turn, goes = next(iter(self._prompts.items()))
        turn_of, ends = self._turn_of, chain.ends
        stays = next((digest for digest in reversed(goes.ends) if turn_of[digest] != turn or digest in ends), NOTHING)
        n_lost = goes.n_chars - goes.ends.get(stays, 0)
        # An answer that is asked for again, or a changed question: it takes the place of what it branches off from.
        branches = (prompt for prompt in self._prompts.values() if deepest in prompt.ends)
        rests = [prompt.n_chars for prompt in islice(branches, _BRANCHES + 1)]
        return min(n_lost, min(rests) - ends[deepest]) if 0 < len(rests) <= _BRANCHES else n_lost

    def place(self, chain: Chain, turn: int) -> None:
        """The replica is about to compute this prompt; a later one is of a greater turn."""
        if not chain.ends:
            return
        prompts, turn_of = self._prompts, self._turn_of
        deepest = self.deepest(chain)
        begun = turn_of[deepest] if self.ends_with(deepest) else None  # it goes on with that one, in its slot
        prompts[turn] = chain
        self._n_chars += chain.n_chars
        turn_of.update(dict.fromkeys(chain.ends, turn))
        if begun is not None:
            self._drop(begun)
        while len(prompts) > 1 and (len(prompts) > self.n_prompts or self._n_chars > self._room):
            self._drop(next(iter(prompts)))

    def take_back(self, chain: Chain) -> None:
        """The replica did not compute this prompt after all, which was placed."""
        turn, turn_of = self._turn_of.get(chain.whole), self._turn_of
        if turn is None or self._prompts[turn].whole != chain.whole:
            return
        self._drop(turn)
        for left, prompt in self._prompts.items():
            turn_of.update(dict.fromkeys(chain.ends.keys() & prompt.ends.keys(), left))

    def _drop(self, turn: int) -> None:
        """And what of it was placed with no later one."""
        chain, turn_of = self._prompts.pop(turn), self._turn_of
        self._n_chars -= chain.n_chars
        for digest in chain.ends:
            if turn_of[digest] == turn:
                del turn_of[digest]

    def check_integrity(self) -> None:
        turn_of: dict[int, int] = {}
        for turn, chain in self._prompts.items():
            turn_of.update(dict.fromkeys(chain.ends, turn))
        assert turn_of == self._turn_of
        assert list(self._prompts) == sorted(self._prompts)
        assert self._n_chars == sum(chain.n_chars for chain in self._prompts.values())
        assert len(self._prompts) <= max(1, self.n_prompts)
