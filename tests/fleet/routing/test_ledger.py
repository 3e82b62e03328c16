"""Laws of the book of replicas: caches, homes, failures, and who asks merely about a conversation."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from llamahost.fleet.routing.ledger import Ask, Ledger, _shares, _start
from llamahost.fleet.routing.policy import NEAR, WORTH, ReplicaView
from llamahost.fleet.routing.prefixes import Chain

VIEWS = [ReplicaView(0, 10, id=f"m#{k}", n_slots=4) for k in range(3)]


def talk(*turns: int, session: str = "", is_single: bool = False) -> Ask:
    return Ask(chain=chain(turns), session=session, is_single=is_single)


def chain(said: Sequence[int], size: int = 1000) -> Chain:
    digests = [hash(tuple(said[:n])) for n in range(1, len(said) + 1)]
    return Chain({digest: size * n for n, digest in enumerate(digests, 1)}, digests[-1], size * len(said))


def give(ledger: Ledger, index: int, ask: Ask, now: float = 0.0, *, is_failure: bool | None = False) -> None:
    ticket = ledger.began(VIEWS[index], ask)
    ledger.ended(VIEWS[index], ticket, work=1.0, now=now, is_failure=is_failure)


def test_a_conversation_comes_back_to_the_replica_that_holds_it_until_that_is_loaded_anew() -> None:
    ledger = Ledger()
    give(ledger, 2, talk(1, 2))
    assert ledger.pick(VIEWS, talk(1, 2, 3), 0.0) == 2
    anew = [*VIEWS[:2], VIEWS[2]._replace(epoch=1)]
    assert ledger.pick(anew, talk(1, 2, 3), 0.0) != 2 or ledger.pick(anew, talk(7), 0.0) == 2


def test_a_conversation_goes_on_in_its_slot_and_not_where_others_hold_as_much_of_it_unless_it_is_far_busier() -> None:
    ledger = Ledger()
    give(ledger, 2, talk(1, 2))
    give(ledger, 1, talk(1, 2, 9))
    for n_more, wanted in ((0, 2), (NEAR, 2), (NEAR + 1, 1)):
        views = [VIEWS[0]._replace(n_in_flight=9), VIEWS[1], VIEWS[2]._replace(n_in_flight=n_more)]
        assert ledger.pick(views, talk(1, 2, 3, 4), 0.0) == wanted


def test_conversations_that_share_a_start_crowd_no_replica_while_another_has_room() -> None:
    """What each holds of its own is computed anew with every turn, where one too many are on a replica."""
    views = [view._replace(n_slots=2) for view in VIEWS]
    ledger, held = Ledger(), {}
    for n_turns in range(1, 6):
        for k in range(3):
            ask = talk(0, 0, 0, 0, *(10 * k + turn for turn in range(n_turns)), is_single=n_turns == 1)
            index = ledger.pick(views, ask, 0.0)
            assert index is not None
            held[k] = ask.chain.ends.get(ledger._of(views[index]).held.deepest(ask.chain), 0)
            ledger.ended(views[index], ledger.began(views[index], ask), work=0.1, now=0.0, is_failure=False)
    assert held == dict.fromkeys(range(3), 4000 + 4 * 1000)


def test_short_questions_with_one_long_start_stay_where_that_is_and_an_answer_is_asked_for_again_there() -> None:
    views = [view._replace(n_slots=2) for view in VIEWS]
    ledger = Ledger()
    for k in range(12):
        program = k % 3
        ask = talk(*[program] * 20, 100 + k)
        index = ledger.pick(views, ask, 0.0)
        assert index == program, "each of them has a replica of its own"
        give(ledger, index, ask)
    for k in range(2):
        give(ledger, 0, talk(*[k] * 30))
    assert ledger.pick(views, talk(*[0] * 29, 7), 0.0) == 0


def test_what_begins_and_ends_after_its_model_left_the_manifest_leaves_nothing_known() -> None:
    ledger = Ledger()
    ticket = ledger.began(VIEWS[0], talk(1))
    ledger.keep(())
    ledger.answers(VIEWS[0], ticket)
    ledger.ended(VIEWS[0], ticket, work=1.0, now=0.0, is_failure=True)
    assert not ledger._known


def test_replicas_of_equal_load_share_the_work() -> None:
    ledger = Ledger()
    for k in range(30):
        ask = talk(k)
        index = ledger.pick(VIEWS, ask, 0.0)
        assert index is not None
        give(ledger, index, ask)
    assert sorted(ledger._of(view).work_at(0.0) for view in VIEWS) == [10.0, 10.0, 10.0]


def test_a_replica_that_failed_this_request_or_is_barred_is_taken_last_and_only_where_nothing_else_is() -> None:
    ledger = Ledger(n_failures=2, open_s=60.0)
    for _ in range(2):
        give(ledger, 0, talk(1), is_failure=True)
    assert ledger.pick(VIEWS, talk(1), 1.0) != 0
    assert ledger.pick(VIEWS, talk(1), 1.0, tried={"m#1", "m#2"}, is_last=False) is None
    assert ledger.pick(VIEWS, talk(1), 1.0, tried={"m#1", "m#2"}) is not None
    assert ledger.pick(VIEWS[:1], talk(1), 1.0) == 0, "a breaker spares others; alone it must not end what there is"
    assert ledger.pick(VIEWS[:1], talk(1), 1.0, is_last=False) is None
    assert ledger.pick(VIEWS[:1], talk(1), 61.0, is_last=False) == 0


def test_a_question_about_a_conversation_is_told_from_the_conversation() -> None:
    ledger = Ledger()
    first = talk(1, 2, session="chat", is_single=True)
    assert not ledger.is_aside(first)
    give(ledger, 0, first)
    title = talk(9, session="chat", is_single=True)
    assert ledger.is_aside(title)
    assert not ledger.is_aside(first), "the first turn again"
    assert not ledger.is_aside(talk(1, 2, 3, 4, session="chat"))
    assert not ledger.is_aside(talk(9, session="another", is_single=True))
    give(ledger, 1, title)
    assert ledger.pick(VIEWS, talk(1, 2, 3, session="chat"), 0.0) == 0, "it did not move the session"
    assert not ledger.is_aside(talk(9, 10, session="chat")), "a question that goes on is a conversation"


def test_a_user_whose_prompts_begin_alike_again_and_again_is_a_program_that_keeps_its_caches() -> None:
    for is_of_user in (True, False):
        ledger = Ledger()
        for k, start in enumerate((1, 2, 1, 2, 1, 2)):
            ask = talk(start, 10 + k, session="me", is_single=True)._replace(is_of_user=is_of_user)
            is_aside = ledger.is_aside(ask)
            give(ledger, 0, ask)
        assert is_aside != is_of_user


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([True, False, None]), st.floats(0, 100)), max_size=40))
def test_somebody_is_always_picked_where_somebody_has_room(story: list[tuple[int, bool | None, float]]) -> None:
    ledger, now = Ledger(), 0.0
    for index, is_failure, step in story:
        now += step
        give(ledger, index, talk(index), now, is_failure=is_failure)
        assert ledger.pick(VIEWS, talk(index), now, tried={"m#0"}) is not None


def test_a_breaker_takes_what_a_manifest_that_is_read_again_says() -> None:
    ledger = Ledger(n_failures=2, open_s=60.0)
    give(ledger, 0, talk(1), is_failure=True)
    assert not ledger.is_open(VIEWS[0], 0.0)
    ledger.allow(n_failures=1, open_s=5.0)
    give(ledger, 0, talk(1), is_failure=True)
    assert ledger.is_open(VIEWS[0], 4.0)
    assert not ledger.is_open(VIEWS[0], 5.0)


SAID = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@given(SAID, SAID, st.sampled_from([1, 100, 300]))
def test_a_session_s_start_tells_whether_a_prompt_begins_with_as_much_of_it_as_is_worth_keeping_or_is_within_it(
    a: list[int], b: list[int], size: int
) -> None:
    n = max([k for k in range(7) if a[:k] == b[:k] and k <= min(len(a), len(b))])
    assert _shares(_start(chain(a, size)), chain(b, size)) == (size * n >= WORTH or n == len(b))


def test_a_session_s_start_is_short() -> None:
    assert len(_start(Chain({n: n for n in range(1, 5001)}, 5000, 5000)).ends) <= WORTH
