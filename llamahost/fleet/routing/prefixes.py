"""Which start of a prompt a replica is likely to hold: told by what was placed there, so that nobody has to be asked.

A prompt is a chain of digests, each of a piece of it and of all that is before. They are made of the words, not of the
tokens: the choice comes before the work that a replica does. Python's own hash makes them, keyed anew in each process;
where two differ and collide, a request is placed a little worse, and that is all.

law: two chains share a digest only where their prompts share that whole start
law: what is held are the last prompts placed, as many as there are slots; one that goes on takes its own one's place
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat, takewhile
from typing import NamedTuple

from llamahost.core.messages import Audio, ChatRequest, CompletionRequest, Image, Text

BLOCK = 512
"""Characters of the first pieces of a text; further on they are a quarter of what is before them: few, however long."""

N_CHARS_OF_TOKEN = 4
"""Characters that a token stands for in most texts."""


class Chain(NamedTuple):
    """`digests[k]` is of the first `ends[k]` characters. Both ascend to the whole prompt."""

    digests: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    @property
    def n_chars(self) -> int:
        return self.ends[-1] if self.ends else 0


NO_CHAIN = Chain()


def n_common(a: Chain, b: Chain) -> int:
    """How many digests both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a.digests, b.digests, strict=False)))


def chain_of(request: ChatRequest | CompletionRequest) -> Chain:
    """Of a completion with several prompts, that of the first."""
    if isinstance(request, CompletionRequest):
        return _chain_of_completion(request)
    digest = hash((request.generation.adapters, request.thinking, *request.template_options))
    n = 0
    for tool in request.tools:
        digest = hash((digest, tool.name, tool.description))
        n += N_CHARS_OF_TOKEN * 32 + len(tool.description)
    digests: list[int] = []
    ends: list[int] = []
    for message in request.messages:
        parts = message.parts
        if len(parts) == 1 and type(parts[0]) is Text and not message.tool_calls:
            text = parts[0].text
            size = len(text)
            if size <= BLOCK:  # what most are, and those that are many
                digest = hash((digest, message.role, message.reasoning, text))
                n += size
                digests.append(digest)
                ends.append(n)
                continue
        digest = hash((digest, message.role, message.reasoning, message.tool_calls))
        n += sum([len(call.arguments) for call in message.tool_calls])
        for part in parts:
            if type(part) is Text:
                text = part.text
                for start, end in _pieces(len(text)):
                    digest = hash((digest, text[start:end]))
                    digests.append(digest)
                    ends.append(n + end)
                n += len(text)
            elif isinstance(part, Image | Audio):
                digest = hash((digest, part.data))
                n += N_CHARS_OF_TOKEN * 256
        if not digests or digests[-1] != digest:
            digests.append(digest)
            ends.append(n)
    return Chain(tuple(digests), tuple(ends))


def _chain_of_completion(request: CompletionRequest) -> Chain:
    prompt = request.prompts[0] if request.prompts else ""
    digest = hash((request.generation.adapters, request.suffix if request.snippets is None else request.snippets))
    digests: list[int] = []
    ends: list[int] = []
    size = 1 if isinstance(prompt, str) else N_CHARS_OF_TOKEN
    for start, end in _pieces(len(prompt)):
        digest = hash((digest, _hashable(prompt[start:end])))
        digests.append(digest)
        ends.append(size * end)
    return Chain(tuple(digests), tuple(ends))


def _hashable(piece: str | Sequence[int]) -> object:
    if isinstance(piece, str):
        return piece
    return piece.tobytes() if isinstance(piece, array) else tuple(piece)


def _pieces(n: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < n:
        end = min(n, start + (start // 4 if start > 4 * BLOCK else BLOCK))
        yield start, end
        start = end


_BRANCHES = 4
"""What more than so many prompts begin with is no conversation of which they are branches."""


class Held:
    """Owned by the loop. What one replica holds, as far as can be told from what it was given.

    It holds `n_prompts` at most, and `n_chars` of them together; what was used the longest ago goes first.
    """

    __slots__ = ("_chains", "_last_of", "_n_chars", "_placed_at", "_room", "n_prompts")

    def __init__(self, n_prompts: int, n_chars: int) -> None:
        self.n_prompts = n_prompts
        self._room = n_chars
        self._n_chars = 0
        self._chains: OrderedDict[int, Chain] = OrderedDict()  # by the last digest, as they were placed
        self._last_of: dict[int, int] = {}  # of each digest: the last one of the chain that was placed last with it
        self._placed_at: dict[int, int] = {}  # in which turn, by the last digest

    def __len__(self) -> int:
        return len(self._chains)

    def ends_in(self, digests: Iterable[int]) -> bool:
        """Whether a whole prompt that is held ends with one of these."""
        return not self._chains.keys().isdisjoint(digests)

    def lost_at(self, chain: Chain) -> int:
        """In which turn that was placed which would go for this prompt; -1 where nothing would."""
        chains = self._chains
        if len(chains) < self.n_prompts and self._n_chars + chain.n_chars <= self._room:
            return -1
        if not chains.keys().isdisjoint(chain.digests):  # it goes on with that one, in its slot
            return -1
        return self._placed_at[next(iter(chains))] if chains else -1

    def n_lost(self, chain: Chain) -> int:
        """Characters of others that would go for it, where `lost_at` says that any would."""
        last = self.deepest(chain)
        goes = next(iter(self._chains.values()))
        n_lost = goes.n_chars - self._n_staying(goes, chain.digests, last)
        if last < 0:
            return n_lost
        # An answer that is asked for again, or a changed question: it takes the place of what it branches off from.
        digest = chain.digests[last]
        branches = (each for each in self._chains.values() if len(each.digests) > last and each.digests[last] == digest)
        rests = [each.n_chars for each in islice(branches, _BRANCHES + 1)]
        return n_lost if len(rests) > _BRANCHES else min(n_lost, min(rests) - chain.ends[last])

    def _n_staying(self, goes: Chain, digests: Sequence[int], last: int) -> int:
        """Characters of its start that others have, or the newcomer: the digests that are its own are the last ones."""
        own, last_of = goes.digests[-1], self._last_of
        low, high = 0, len(goes.digests)  # [0, low) stays, [high, …) goes
        while low < high:
            middle = (low + high) // 2
            digest = goes.digests[middle]
            if last_of[digest] != own or (middle <= last and digests[middle] == digest):
                low = middle + 1
            else:
                high = middle
        return goes.ends[low - 1] if low else 0

    def deepest(self, chain: Chain, guess: int = 0) -> int:
        """The index of the last digest that is held; -1 where none is. Looks around the guess first."""
        held, digests = self._last_of, chain.digests
        low, high = -1, len(digests)  # digests[low] is held, digests[high] is not; whoever has one has all before
        if 0 <= guess < high:
            if digests[guess] in held:
                low, step = guess, 1
                while low + step < high:
                    if digests[low + step] not in held:
                        high = low + step
                        break
                    low, step = low + step, 2 * step
            else:
                high = guess
        while high - low > 1:
            middle = (low + high) // 2
            if digests[middle] in held:
                low = middle
            else:
                high = middle
        return low

    def place(self, chain: Chain, turn: int = 0) -> None:
        """The replica is about to compute this prompt; a later one is of a greater turn."""
        digests, chains = chain.digests, self._chains
        if not digests:
            return
        if not chains.keys().isdisjoint(digests):  # it goes on with a whole prompt, in its slot
            begun = next(digest for digest in reversed(digests) if digest in chains)
            self._n_chars -= chains.pop(begun).n_chars
            del self._placed_at[begun]
        last = digests[-1]
        chains[last] = chain
        self._placed_at[last] = turn
        self._n_chars += chain.n_chars
        self._last_of.update(zip(digests, repeat(last)))
        while len(chains) > 1 and (len(chains) > self.n_prompts or self._n_chars > self._room):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """No chain is older, so what is its own is what none was placed with later: its last digests."""
        last, chain = self._chains.popitem(last=False)
        del self._placed_at[last]
        self._n_chars -= chain.n_chars
        last_of = self._last_of
        for digest in reversed(chain.digests):
            if last_of[digest] != last:
                break
            del last_of[digest]

    def check_integrity(self) -> None:
        last_of: dict[int, int] = {}
        for last, chain in self._chains.items():
            assert chain.digests[-1] == last
            last_of.update(dict.fromkeys(chain.digests, last))
        assert last_of == self._last_of
        assert self._placed_at.keys() == self._chains.keys()
        assert self._n_chars == sum(chain.n_chars for chain in self._chains.values())
        assert len(self._chains) <= max(1, self.n_prompts)


def n_held_by(helds: Sequence[Held], chain: Chain) -> list[int]:
    """Characters of its longest start that each of these holds: most hold as much of it as the one before."""
    last, ends, n_held = 0, chain.ends, []
    for held in helds:
        last = held.deepest(chain, max(last, 0))
        n_held.append(ends[last] if last >= 0 else 0)
    return n_held
