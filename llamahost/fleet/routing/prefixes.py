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
from collections.abc import Iterator, Sequence
from itertools import takewhile
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
    add_digest, add_end = digests.append, ends.append
    for message in request.messages:
        parts = message.parts
        first = parts[0] if len(parts) == 1 else None
        if type(first) is Text and not message.tool_calls:
            text = first.text
            if len(text) <= BLOCK:  # what most are, and those that are many
                digest = hash((digest, message.role, message.reasoning, text))
                n += len(text)
                add_digest(digest)
                add_end(n)
                continue
        digest = hash((digest, message.role, message.reasoning, message.tool_calls))
        for part in parts:
            if type(part) is Text:
                text = part.text
                if len(text) <= BLOCK:
                    digest = hash((digest, text))
                    n += len(text)
                else:
                    start, size = 0, len(text)
                    while start < size:
                        end = start + max(BLOCK, start // 4)
                        digest = hash((digest, text[start:end]))
                        add_digest(digest)
                        add_end(n + min(end, size))
                        start = end
                    n += size
            elif isinstance(part, Image | Audio):
                digest = hash((digest, part.data))
                n += N_CHARS_OF_TOKEN * 256
        n += sum(len(call.arguments) for call in message.tool_calls)
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
        end = min(n, start + max(BLOCK, start // 4))
        yield start, end
        start = end


_BRANCHES = 4
"""What more than so many prompts begin with is no conversation of which they are branches."""


class Held:
    """Owned by the loop. What one replica holds, as far as can be told from what it was given.

    It holds `n_prompts` at most, and `n_chars` of them together; what was used the longest ago goes first.
    """

    __slots__ = ("_chains", "_n_chars", "_n_of", "_placed_at", "_room", "n_prompts")

    def __init__(self, n_prompts: int, n_chars: int) -> None:
        self.n_prompts = n_prompts
        self._room = n_chars
        self._n_chars = 0
        self._chains: OrderedDict[int, Chain] = OrderedDict()  # by the last digest
        self._n_of: dict[int, int] = {}  # of each digest: chains that have it
        self._placed_at: dict[int, int] = {}  # in which turn, by the last digest

    def __len__(self) -> int:
        return len(self._chains)

    def look(self, chain: Chain) -> tuple[int, int]:
        """Characters of the longest start that is held, and in which turn that was placed which would go for this
        prompt; -1 where nothing would.
        """
        (digests, ends), chains = chain, self._chains
        last, n_held = -1, 0
        if digests and digests[0] in self._n_of:  # most hold nothing of it, or much
            last = self._deepest(chain)
            n_held = ends[last]
        if len(chains) < self.n_prompts and (not ends or self._n_chars + ends[-1] <= self._room):
            return n_held, -1
        for k in range(last, -1, -1):
            if digests[k] in chains:  # it goes on with this one, in its slot
                return n_held, -1
        for oldest in chains:
            return n_held, self._placed_at[oldest]
        return n_held, -1

    def n_lost(self, chain: Chain) -> int:
        """Characters of others that would go for it, where `look` says that any would."""
        last = self._deepest(chain)
        goes = next(iter(self._chains.values()))
        n_lost = goes.n_chars - self._n_staying(goes, chain.digests, last)
        if last < 0 or self._n_of[chain.digests[last]] > _BRANCHES:
            return n_lost
        # An answer that is asked for again, or a changed question: it takes the place of what it branches off from.
        begun = (each for each in self._chains.values() if len(each.digests) > last)
        rests = [each.n_chars for each in begun if each.digests[last] == chain.digests[last]]
        return min(n_lost, min(rests) - chain.ends[last])

    def _n_staying(self, goes: Chain, digests: Sequence[int], last: int) -> int:
        """Characters of its start that others have, or the newcomer: the digests that are its own are the last ones."""
        n_of = self._n_of
        low, high = 0, len(goes.digests)  # [0, low) stays, [high, …) goes
        while low < high:
            middle = (low + high) // 2
            digest = goes.digests[middle]
            if n_of[digest] > 1 or (middle <= last and digests[middle] == digest):
                low = middle + 1
            else:
                high = middle
        return goes.ends[low - 1] if low else 0

    def _deepest(self, chain: Chain) -> int:
        """The index of the last digest that is held; -1 where none is."""
        n_of, digests = self._n_of, chain.digests
        if not digests or digests[0] not in n_of:
            return -1
        if digests[-1] in n_of:
            return len(digests) - 1
        low, high, n = 0, 1, len(digests) - 1  # digests[low] is held, digests[n] is not; whoever has one has all before
        while high < n and digests[high] in n_of:  # most replicas have the first of it, or nothing
            low, high = high, 2 * high
        high = min(high, n)
        while high - low > 1:
            middle = (low + high) // 2
            if digests[middle] in n_of:
                low = middle
            else:
                high = middle
        return low

    def place(self, chain: Chain, turn: int = 0) -> None:
        """The replica is about to compute this prompt; a later one is of a greater turn."""
        digests, chains, n_of = chain.digests, self._chains, self._n_of
        if not digests:
            return
        start = len(digests)
        while start and digests[start - 1] not in chains:
            start -= 1
        if start:  # [0, start) is the whole of a prompt that this one goes on with, in its slot
            self._n_chars -= chains.pop(digests[start - 1]).n_chars
            del self._placed_at[digests[start - 1]]
        chains[digests[-1]] = chain
        self._placed_at[digests[-1]] = turn
        self._n_chars += chain.n_chars
        for digest in digests[start:]:
            n_of[digest] = n_of.get(digest, 0) + 1
        while len(chains) > 1 and (len(chains) > self.n_prompts or self._n_chars > self._room):
            self._drop(next(iter(chains)))

    def check_integrity(self) -> None:
        count: dict[int, int] = {}
        for last, chain in self._chains.items():
            assert chain.digests[-1] == last
            for digest in chain.digests:
                count[digest] = count.get(digest, 0) + 1
        assert count == self._n_of
        assert self._placed_at.keys() == self._chains.keys()
        assert self._n_chars == sum(chain.n_chars for chain in self._chains.values())
        assert len(self._chains) <= max(1, self.n_prompts)

    def _drop(self, last: int) -> None:
        chain = self._chains.pop(last)
        del self._placed_at[last]
        self._n_chars -= chain.n_chars
        n_of = self._n_of
        for digest in chain.digests:
            n = n_of[digest] - 1
            if n:
                n_of[digest] = n
            else:
                del n_of[digest]
