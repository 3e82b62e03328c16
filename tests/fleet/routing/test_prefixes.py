"""Laws of prefix chains, and of what a replica is believed to hold."""

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llamahost.core.messages import AdapterUse, ChatRequest, CompletionRequest, Generation, Message, Role, Text, Tool
from llamahost.fleet.routing.prefixes import BLOCK, Chain, Held, chain_of, n_common, n_held_by

TURNS = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.sampled_from(["", "a", "b", "x" * 3000])), min_size=1
)


def chat(turns: list[tuple[Role, str]], **options: object) -> Chain:
    messages = tuple(Message(role=role, parts=(Text(text),)) for role, text in turns)
    return chain_of(ChatRequest(messages=messages, **options))  # type: ignore[arg-type] # a test's shorthand


@given(TURNS, TURNS)
def test_a_conversation_that_goes_on_has_the_chain_of_its_start_and_one_that_differs_parts_there(
    turns: list[tuple[Role, str]], more: list[tuple[Role, str]]
) -> None:
    start, longer = chat(turns), chat(turns + more)
    assert longer.digests[: len(start.digests)] == start.digests
    assert longer.ends[: len(start.ends)] == start.ends
    assert start.n_chars == sum(len(text) for _, text in turns)
    assert n_common(start, chat([("user", "otherwise"), *turns])) == 0


def test_a_text_is_cut_into_few_pieces_however_long_so_that_texts_share_what_they_begin_with() -> None:
    text = "".join(map(chr, range(32, 127))) * 400
    one, other = (chain_of(CompletionRequest(prompts=(t,))) for t in (text + "one", text[:20_000] + "other"))
    shared = one.ends[n_common(one, other) - 1]
    assert 20_000 * 0.75 <= shared <= 20_000
    assert len(chain_of(CompletionRequest(prompts=("x" * 10**6,))).digests) < 50
    tokens = [array("i", range(5000)), array("i", [*range(4000), 7])]
    one, other = (chain_of(CompletionRequest(prompts=(t,))) for t in tokens)
    assert n_common(one, other) > 4


def test_tools_and_adapters_stand_before_the_messages() -> None:
    turns: list[tuple[Role, str]] = [("user", "hello")]
    plain = chat(turns)
    for other in (
        chat(turns, tools=(Tool(name="look", description="x" * BLOCK),)),
        chat(turns, generation=Generation(adapters=(AdapterUse("pirate"),))),
        chat(turns, thinking=True),
        chat([("assistant", "hello")]),
    ):
        assert n_common(plain, other) == 0


class HeldMachine(RuleBasedStateMachine):
    """Beside a plain list of the last prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Held(n_prompts=3, n_chars=40)
        self.prompts: list[tuple[int, ...]] = []

    @staticmethod
    def chain(prompt: tuple[int, ...]) -> Chain:
        digests = tuple(hash(prompt[: n + 1]) for n in range(len(prompt)))
        return Chain(digests, tuple(range(4, 4 * len(prompt) + 4, 4)))

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=6).map(tuple))
    def place(self, prompt: tuple[int, ...]) -> None:
        self.held.place(self.chain(prompt))
        starts = [held for held in self.prompts if prompt[: len(held)] == held]
        if starts:
            self.prompts.remove(max(starts, key=len))
        self.prompts.append(prompt)
        while len(self.prompts) > 3 or (len(self.prompts) > 1 and 4 * sum(map(len, self.prompts)) > 40):
            del self.prompts[0]

    @rule(prompt=st.lists(st.integers(0, 1), max_size=7).map(tuple))
    def look(self, prompt: tuple[int, ...]) -> None:
        longest = max(
            (n for held in self.prompts for n in range(len(held) + 1) if held[:n] == prompt[:n] and n <= len(prompt)),
            default=0,
        )
        assert n_held_by([self.held], self.chain(prompt)) == [4 * longest]

    @invariant()
    def is_whole(self) -> None:
        self.held.check_integrity()
        assert len(self.held) == len(self.prompts)


TestHeld = HeldMachine.TestCase
TestHeld.settings = settings(max_examples=30, stateful_step_count=30)
