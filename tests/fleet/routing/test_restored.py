"""Laws of what a replica was given back: it is told by its words, once, and forgotten when others have its slots."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from llamahost.core.messages import AdapterUse, ChatRequest, CompletionRequest, Generation, Message, Text
from llamahost.core.work import KeptSlot
from llamahost.fleet.routing.ledger import Ask, Ledger
from llamahost.fleet.routing.policy import WORTH, ReplicaView
from llamahost.fleet.routing.prefixes import chain_of
from llamahost.fleet.routing.restored import BETWEEN, N_HEAD, Restored, restored

ROLES = ("system", "user", "assistant", "user", "assistant", "user")


def talk(*texts: str, **more: object) -> ChatRequest:
    messages = [Message(role=role, parts=(Text(text),)) for role, text in zip(ROLES, texts, strict=False)]  # type: ignore[arg-type]
    return ChatRequest(messages=tuple(messages), **more)  # type: ignore[arg-type]


def state(*texts: str, mark: str = "<|im_start|>\n") -> Restored:
    text = "".join(mark + each for each in texts)
    return Restored(array("i", list(text.encode())), text)


@given(
    st.lists(st.text("abc \n", min_size=1, max_size=30), min_size=2, max_size=6),
    st.integers(0, 6),
    st.text("<|>é", max_size=BETWEEN - 3),
)
def test_of_a_request_is_found_what_the_state_holds_whatever_stands_between(
    texts: list[str], n: int, mark: str
) -> None:
    """Each text is another's, and none is the end of what is before it."""
    texts = [f"{k}{text}{k}" for k, text in enumerate(texts)]
    n = min(n, len(texts))
    found = state(*texts[:n], mark=mark).begun(talk(*texts))
    if n < 2:
        assert found is None, "instructions alone are no conversation"
    else:
        assert found == (sum(map(len, texts[:n])), talk(*texts[:n]))


@given(st.text("ab", max_size=200), st.integers(0, 200), st.text("ab", max_size=50), st.sampled_from(["", "<s>"]))
def test_of_a_prompt_is_found_what_both_begin_with(prompt: str, cut: int, rest: str, bos: str) -> None:
    held = prompt[:cut] + rest
    n = next((k for k, (a, b) in enumerate(zip(prompt, held, strict=False)) if a != b), min(len(prompt), len(held)))
    tokens = array("i", list(held.encode()))
    found = Restored(tokens, bos + held).begun(CompletionRequest(prompts=(prompt,)))
    if n >= N_HEAD:
        assert found is not None
        assert found == (n, CompletionRequest(prompts=(prompt[:n],)))
    by_tokens = Restored(tokens, "").begun(CompletionRequest(prompts=(tuple(prompt.encode()),)))
    assert (by_tokens[0] if by_tokens else 0) == n


def test_an_answer_that_is_to_be_continued_is_known_by_what_is_before_it_too() -> None:
    asked = talk("s", LONG[0], "it beg", continued="text")
    for held, texts in ((state("s", LONG[0], "it began so"), 3), (state("s", LONG[0]), 2)):
        found = held.begun(asked)
        assert found is not None
        assert chain_of(found[1]) == chain_of(talk(*("s", LONG[0], "it beg")[:texts]))


def test_a_state_is_read_as_its_tokens_spell_it_and_is_nothing_to_a_request_with_an_adapter() -> None:
    (found,) = restored([KeptSlot(array("i", [2, 0, 1]), b"")], [b"\xc3", b"\xa9!", b"<s>"])
    assert found.text == "<s>é!"
    generation = Generation(adapters=(AdapterUse("pirate"),))
    assert state("a", "b").begun(talk("a", "b")) is not None
    assert state("a", "b").begun(talk("a", "b", generation=generation)) is None


LONG = [f"{k} " + "words " * WORTH for k in range(9)]
VIEWS = [
    ReplicaView(0, 9, id="m#0", epoch=1, n_slots=2, restored=(state("s", LONG[0]), state("s", LONG[1]))),
    ReplicaView(0, 9, id="m#1", epoch=2, n_slots=2, restored=(state("s", LONG[2]), state("s", LONG[3]))),
]


def give(ledger: Ledger, request: ChatRequest) -> int:
    ask = Ask(chain_of(request))
    index = ledger.pick(VIEWS, ask, 0.0, request=request)
    assert index is not None
    ledger.ended(VIEWS[index], ledger.began(VIEWS[index], ask), work=0.01, now=0.0, is_failure=False)
    return index


def test_a_conversation_goes_where_it_was_restored_and_on_from_there() -> None:
    ledger = Ledger()
    for k in (3, 0, 2, 1, 3, 2):
        assert give(ledger, talk("s", LONG[k], "well", "and?")) == k // 2
    assert not ledger._restored, "each is known by now as what was placed is"
    for k in (1, 2):
        assert give(ledger, talk("s", LONG[k], "well", "and?", "so", "no")) == k // 2


def test_what_nobody_came_for_is_forgotten_with_its_slot_and_with_its_replica() -> None:
    ledger = Ledger()
    taken = [give(ledger, talk("s", LONG[k])) for k in (4, 5, 6, 7)]
    assert sorted(taken) == [0, 0, 1, 1]
    assert not ledger._restored
    ledger = Ledger()
    ledger.pick(VIEWS, Ask(), 0.0)
    assert {id_: len(left) for id_, left in ledger._restored.items()} == {"m#0": 2, "m#1": 2}
    ledger.pick([VIEWS[0], VIEWS[1]._replace(epoch=3, restored=())], Ask(), 0.0)
    assert list(ledger._restored) == ["m#0"]
    ledger.keep(())
    assert not ledger._restored
