"""Laws of prefix chains, and of what a replica is believed to hold."""

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llamahost.core.messages import AdapterUse, ChatRequest, CompletionRequest, Generation, Message, Role, Text, Tool
from llamahost.fleet.routing.prefixes import BLOCK, FINE, N_FINE, NOTHING, Chain, Held, chain_of

TURNS = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.sampled_from([0, 1, 300, 900, 6000])), min_size=1, max_size=30
)
Turns = list[tuple[Role, int]]


def chat(turns: Turns, **options: object) -> Chain:
    """Of messages that are so long."""
    messages = tuple(Message(role=role, parts=(Text("x" * n),)) for role, n in turns)
    return chain_of(ChatRequest(messages=messages, **options))  # type: ignore[arg-type] # a test's shorthand


def n_shared(a: Chain, b: Chain) -> int:
    """Characters of the longest start of which both have a digest."""
    return max((end for digest, end in a.ends.items() if digest in b.ends), default=0)


@given(TURNS, TURNS, TURNS)
def test_two_conversations_share_digests_of_what_both_begin_with_alone_and_one_near_its_end(
    start: Turns, more: Turns, others: Turns
) -> None:
    one, other = chat(start + more), chat([*start, ("tool", 9), *others])
    n = sum(n for _, n in start)
    is_fine = len(more) < N_FINE and len(others) + 1 < N_FINE
    assert n_shared(one, other) == n if is_fine or n <= FINE else n - max(BLOCK, n // 4) <= n_shared(one, other) <= n
    assert n_shared(one, chat([("tool", 9), *start])) == 0


@given(TURNS)
def test_a_chain_ascends_to_the_whole_prompt(turns: Turns) -> None:
    chain = chat(turns)
    assert list(chain.ends.values()) == sorted(chain.ends.values())
    assert list(chain.ends.items())[-1] == (chain.whole, chain.n_chars)
    assert chain.n_chars == sum(n for _, n in turns)


def test_a_conversation_has_few_digests_however_long() -> None:
    for size in (20, 300, 6000):
        turns: Turns = [("assistant" if k % 2 else "user", size) for k in range(2000)]
        assert len(chat(turns).ends) < FINE / size + 80


@given(TURNS, st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.just(500)), max_size=N_FINE - 1))
def test_a_conversation_that_goes_on_takes_the_place_of_its_start(start: Turns, more: Turns) -> None:
    held = Held(n_prompts=4, n_chars=10**9)
    held.place(chat(start), 1)
    assert held.deepest(chat(start + more)) == chat(start).whole
    held.place(chat(start + more), 2)
    held.check_integrity()
    assert len(held) == 1


def test_a_text_is_cut_into_few_pieces_however_long_so_that_texts_share_what_they_begin_with() -> None:
    text = "".join(map(chr, range(32, 127))) * 400
    one, other = (chain_of(CompletionRequest(prompts=(t,))) for t in (text + "one", text[:20_000] + "other"))
    assert 20_000 * 0.75 <= n_shared(one, other) <= 20_000
    assert len(chain_of(CompletionRequest(prompts=("x" * 10**6,))).ends) < 50
    tokens = [array("i", range(5000)), array("i", [*range(4000), 7])]
    one, other = (chain_of(CompletionRequest(prompts=(t,))) for t in tokens)
    assert 4 * 3000 <= n_shared(one, other) <= 4 * 4000


def test_tools_and_adapters_stand_before_the_messages() -> None:
    turns: Turns = [("user", 5)]
    plain = chat(turns)
    for other in (
        chat(turns, tools=(Tool(name="look", description="x" * BLOCK),)),
        chat(turns, generation=Generation(adapters=(AdapterUse("pirate"),))),
        chat(turns, thinking=True),
        chat([("assistant", 5)]),
    ):
        assert n_shared(plain, other) == 0


class HeldMachine(RuleBasedStateMachine):
    """Beside a plain list of the last prompts, the latest behind."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Held(n_prompts=3, n_chars=40)
        self.prompts: list[tuple[int, ...]] = []
        self.turn = 0

    @staticmethod
    def chain(prompt: tuple[int, ...]) -> Chain:
        digests = [hash(prompt[: n + 1]) for n in range(len(prompt))]
        return Chain({digest: 4 * n for n, digest in enumerate(digests, 1)}, digests[-1], 4 * len(prompt))

    def n_held(self, prompt: tuple[int, ...]) -> int:
        return max(n for n in range(len(prompt) + 1) if not n or any(held[:n] == prompt[:n] for held in self.prompts))

    def begun(self, prompt: tuple[int, ...]) -> tuple[int, ...] | None:
        """What was placed last of those that begin with as much of it as any, if that is all of it."""
        start = prompt[: self.n_held(prompt)]
        last = next((held for held in reversed(self.prompts) if start and held[: len(start)] == start), None)
        return last if last == start else None

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=6).map(tuple))
    def place(self, prompt: tuple[int, ...]) -> None:
        self.turn += 1
        self.held.place(self.chain(prompt), self.turn)
        begun = self.begun(prompt)
        if begun is not None:
            self.prompts.remove(begun)
        self.prompts.append(prompt)
        while len(self.prompts) > 3 or (len(self.prompts) > 1 and 4 * sum(map(len, self.prompts)) > 40):
            del self.prompts[0]

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=6).map(tuple))
    def take_back(self, prompt: tuple[int, ...]) -> None:
        self.held.take_back(self.chain(prompt))
        last = next((held for held in reversed(self.prompts) if held[: len(prompt)] == prompt), None)
        if last == prompt:
            del self.prompts[len(self.prompts) - 1 - self.prompts[::-1].index(prompt)]

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=7).map(tuple))
    def look(self, prompt: tuple[int, ...]) -> None:
        chain = self.chain(prompt)
        deepest = self.held.deepest(chain)
        assert chain.ends.get(deepest, 0) == 4 * self.n_held(prompt)
        assert self.held.ends_with(deepest) == (self.begun(prompt) is not None)
        goes_on = self.held.ends_with(deepest)
        is_full = len(self.prompts) == 3 or 4 * (len(prompt) + sum(map(len, self.prompts))) > 40
        assert (self.held.lost_at(chain, deepest) >= 0) == (is_full and bool(self.prompts) and not goes_on)
        if self.held.lost_at(chain, deepest) >= 0:
            oldest, *others = self.prompts
            own = [n for n in range(1, len(oldest) + 1) if all(o[:n] != oldest[:n] for o in (*others, prompt))]
            assert self.held.n_lost(chain, deepest) <= 4 * len(own)

    @invariant()
    def is_whole(self) -> None:
        self.held.check_integrity()
        assert len(self.held) == len(self.prompts)
        assert self.held.deepest(Chain()) == NOTHING


TestHeld = HeldMachine.TestCase
TestHeld.settings = settings(max_examples=30, stateful_step_count=30)
