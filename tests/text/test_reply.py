"""Laws of a reply: what is told of tokens, in which order, and how it is counted."""

from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.core.errors import GenerationFailed
from llamahost.core.events import (
    Delta,
    Echoed,
    Event,
    Finished,
    Likely,
    Measured,
    Progress,
    PromptLogprob,
    Started,
    Timings,
    Usage,
)
from llamahost.core.work import Emission, RowLogprobs, Times
from llamahost.text.echo import Echo
from llamahost.text.reply import Reply
from llamahost.text.splitter import Segment
from tests.text.vocabulary import BOS, EOS, TURN, ByteVocabulary

VOCABULARY = ByteVocabulary()
HELLO, WORLD, BREAK, EURO_1, EURO_2, STOP_HERE, _ = range(TURN + 1, VOCABULARY.n_tokens)


def a_reply(stop: tuple[str, ...] = (), index: int = 0) -> Reply:
    return Reply(index, model="m", n_prompt=3, vocabulary=VOCABULARY, stop=stop)


def ids(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def end_of(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def told(reply: Reply, *emissions: Emission) -> list[Event]:
    return [event for emission in emissions for event in reply.feed(emission)]


def test_started_comes_with_the_first_token_even_if_it_shows_nothing() -> None:
    reply = a_reply()
    assert reply.feed(Emission(1)) == []
    assert reply.feed(Emission(1, (EURO_1,), n_cached=2)) == [Started(0, "m", 3, 2)]
    assert reply.feed(Emission(1, (EURO_2,))) == [Delta(0, "€!", n_tokens=2)]


def test_an_echo_comes_first_and_is_no_part_of_the_answer() -> None:
    reply = Reply(0, model="m", n_prompt=3, vocabulary=VOCABULARY, stop=("b",), echo=Echo("a bee "))
    assert reply.feed(Emission(1)) == []
    events = reply.feed(Emission(1, ids("ab")))
    assert events[:2] == [Started(0, "m", 3, 0), Echoed(0, "a bee ")]
    assert text_of(events) == "a"  # a stop string in the prompt ends nothing
    assert end_of(events).usage.n_generated == 2


def test_progress_is_told_from_what_was_there_to_the_first_token() -> None:
    reply = Reply(0, model="m", n_prompt=9, vocabulary=VOCABULARY, tells_progress=True)
    begun = Times(arrived=1.0, admitted=2.0, last=2.5)
    assert reply.feed(Emission(1, n_cached=2, n_processed=5, times=begun)) == [
        Started(0, "m", 9, 2),
        Progress(0, 9, 2, 2, 0.0),
        Progress(0, 9, 2, 5, 0.5),
    ]
    first = reply.feed(Emission(1, ids("a"), n_cached=2, times=Times(1.0, 2.0, 3.0, 3.0)))
    assert first == [Progress(0, 9, 2, 9, 1.0), Delta(0, "a", n_tokens=1)]
    assert reply.feed(Emission(1, ids("b"))) == [Delta(0, "b", n_tokens=1)]
    short = Reply(0, model="m", n_prompt=3, vocabulary=VOCABULARY, tells_progress=True)
    events = short.feed(Emission(1, ids("a"), times=Times(1.0, 2.0, 3.0, 3.0)))
    assert [event.n_processed for event in events if isinstance(event, Progress)] == [0, 3]


def test_nothing_of_the_prompt_is_told_to_who_did_not_ask() -> None:
    assert a_reply().feed(Emission(1, n_processed=2)) == [Started(0, "m", 3, 0)]


def test_timings_come_with_every_delta_where_they_are_asked_for() -> None:
    reply = Reply(0, model="m", n_prompt=3, vocabulary=VOCABULARY, tells_timings=True)
    reply.feed(Emission(1, ids("a"), times=Times(1.0, 2.0, 4.0, 4.0)))
    assert reply.feed(Emission(1, ids("b"), times=Times(1.0, 2.0, 4.0, 7.0))) == [
        Delta(0, "b", n_tokens=1, measured=Measured(Usage(3, 0, 2, 0), Timings(1.0, 2.0, 3.0)))
    ]


@pytest.mark.parametrize("stop", [(), ("xy",)])
def test_who_took_too_long_ends_with_the_next_line(stop: tuple[str, ...]) -> None:
    reply = Reply(0, model="m", n_prompt=3, vocabulary=VOCABULARY, line_limit_s=1.0, stop=stop)
    early = reply.feed(Emission(1, ids("a\nb"), times=Times(1.0, 1.0, 2.0, 3.0)))
    late = reply.feed(Emission(1, ids("c"), times=Times(1.0, 1.0, 2.0, 3.5)))
    last = reply.feed(Emission(1, ids("dx\ne"), times=Times(1.0, 1.0, 2.0, 3.6)))
    assert text_of([*early, *late, *last]) == "a\nbcdx\n"
    assert end_of(last).reason == "length"
    assert end_of(last).usage.n_generated == 7
    assert reply.is_finished


@given(st.text("a \t\n", max_size=30), st.integers(0, 3), st.lists(st.integers(1, 4), min_size=30, max_size=30))
def test_a_text_ends_where_a_line_leaves_the_block_however_it_is_cut(text: str, least: int, cuts: list[int]) -> None:
    first, *lines = text.split("\n")
    kept = [first]
    for k, line in enumerate(lines):
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        if len(indent) < least and (indent != line or k < len(lines) - 1):
            kept.append(indent)
            break
        kept.append(line)
    expected = "\n".join(kept)
    for stop in ((), ("aa\naa",)):
        reply = Reply(0, model="m", n_prompt=3, vocabulary=VOCABULARY, least_indent=least, stop=stop)
        events: list[Event] = []
        rest = text
        for n in cuts:
            if rest and not reply.is_finished:
                events += reply.feed(Emission(1, ids(rest[:n])))
                rest = rest[n:]
        if not reply.is_finished:
            events += reply.feed(Emission(1, finish="stop"))
        if not stop or stop[0] not in text:
            assert text_of(events) == expected
        assert end_of(events).reason in ("stop", "length")


SCORED = Echo("hé", array("i", [104, 0xC3, 0xA9]), array("i", [0, 1, 1]))


def test_a_scored_prompt_is_told_as_its_scores_come() -> None:
    reply = Reply(0, model="m", n_prompt=3, vocabulary=VOCABULARY, echo=SCORED)
    first = reply.feed(Emission(1, prompt_logprobs=(RowLogprobs(-1.0, ((104, -0.5),)),)))
    assert first == [
        Started(0, "m", 3, 0),
        Echoed(
            0,
            "h",
            (PromptLogprob(104, b"h", 0, None), PromptLogprob(0xC3, b"\xc3", 1, -1.0, (Likely(104, b"h", -0.5),))),
        ),
    ]
    assert reply.feed(Emission(1)) == []
    rest = reply.feed(Emission(1, ids("a"), prompt_logprobs=(RowLogprobs(-2.0),)))
    assert rest == [Echoed(0, "é", (PromptLogprob(0xA9, b"\xa9", 1, -2.0),)), Delta(0, "a", n_tokens=1)]


def test_a_scored_prompt_of_one_token_is_told_without_a_score() -> None:
    echo = Echo("h", array("i", [104]), array("i", [0]))
    for emission in (Emission(1, ids("a")), Emission(1, finish="length")):
        reply = Reply(0, model="m", n_prompt=1, vocabulary=VOCABULARY, echo=echo)
        assert reply.feed(emission)[1] == Echoed(0, "h", (PromptLogprob(104, b"h", 0, None),))


def test_scores_alone_show_no_text() -> None:
    echo = Echo("", SCORED.tokens, SCORED.offsets)
    reply = Reply(0, model="m", n_prompt=3, vocabulary=VOCABULARY, echo=echo)
    events = told(reply, Emission(1, ids("a"), prompt_logprobs=(RowLogprobs(-1.0), RowLogprobs(-2.0)), finish="length"))
    assert [event.text for event in events if isinstance(event, Echoed)] == [""]
    assert text_of(events) == "a"


def test_an_answer_of_nothing_has_a_start_and_an_end() -> None:
    events = a_reply(index=4).feed(Emission(1, n_hidden=1, finish="stop"))
    assert events[0] == Started(4, "m", 3, 0)
    assert text_of(events) == ""
    assert end_of(events).usage.n_generated == 1


def test_the_hidden_end_token_is_counted_and_not_shown() -> None:
    events = told(a_reply(), Emission(1, (HELLO,)), Emission(1, n_hidden=1, finish="stop"))
    assert text_of(events) == "hello"
    assert end_of(events).usage.n_generated == 2
    assert end_of(events).reason == "stop"


def test_control_tokens_never_show() -> None:
    events = told(
        a_reply(), Emission(1, (BOS,)), Emission(1, (HELLO, EOS, WORLD)), Emission(1, (TURN,), finish="length")
    )
    assert text_of(events) == "hello world"
    assert end_of(events).reason == "length"
    assert end_of(events).usage.n_generated == 5


def test_a_stop_ends_the_answer_and_what_follows_is_neither_sent_nor_counted() -> None:
    reply = a_reply(stop=("\n\n",))
    events = told(reply, Emission(1, (HELLO, *ids("\n"))), Emission(1, (*ids("\nmore"), WORLD)))
    assert text_of(events) == "hello"
    assert end_of(events).stop == "\n\n"
    assert end_of(events).usage.n_generated == 3
    assert reply.is_finished
    assert reply.feed(Emission(1, (WORLD,), finish="length")) == []


def test_text_around_a_stop_inside_one_token_is_shown_before_it_only() -> None:
    events = told(a_reply(stop=("op h",)), Emission(1, (STOP_HERE,)))
    assert text_of(events) == "st"
    assert end_of(events).usage.n_generated == 1


def test_a_stop_on_the_last_token_is_a_stop_not_a_length() -> None:
    events = told(a_reply(stop=("o",)), Emission(1, (HELLO,), finish="length"))
    assert end_of(events).reason == "stop"
    assert text_of(events) == "hell"


def test_half_a_stop_is_shown_at_the_end() -> None:
    events = told(a_reply(stop=("\n\n\n",)), Emission(1, (HELLO, BREAK)), Emission(1, n_hidden=1, finish="stop"))
    assert text_of(events) == "hello\n\n"
    assert end_of(events).stop == ""


def test_half_a_character_at_the_end_becomes_a_replacement() -> None:
    events = told(a_reply(), Emission(1, (EURO_1,), finish="length"))
    assert text_of(events) == "\ufffd"


def test_cancelled_is_a_reason_and_failed_is_an_error() -> None:
    assert end_of(told(a_reply(), Emission(1, (HELLO,)), Emission(1, finish="cancelled"))).reason == "cancelled"
    with pytest.raises(GenerationFailed, match="no luck"):
        a_reply().feed(Emission(1, finish="failed", error="no luck"))


def test_timings_are_differences_and_zero_where_never_reached() -> None:
    times = Times(arrived=10.0, admitted=10.5, first=11.0, last=13.0)
    events = told(a_reply(), Emission(1, (HELLO,), finish="stop", times=times))
    assert end_of(events).timings == Timings(0.5, 0.5, 2.0)
    never = told(a_reply(), Emission(1, finish="cancelled", times=Times(arrived=10.0)))
    assert end_of(never).timings == Timings()


def row(token: int) -> RowLogprobs:
    return RowLogprobs(-token / 1000, ((token, -token / 1000),))


def with_logprobs(*tokens: int) -> Emission:
    return Emission(1, tokens, tuple(row(token) for token in tokens))


def tokens_of_logprobs(events: list[Event]) -> list[int]:
    return [logprob.token for event in events if isinstance(event, Delta) for logprob in event.logprobs]


def test_logprobs_come_with_the_text_that_they_are_about() -> None:
    reply = a_reply(stop=("<end>",))
    first = reply.feed(with_logprobs(HELLO))[-1]
    assert isinstance(first, Delta)
    assert [(each.token, each.piece) for each in first.logprobs] == [(HELLO, b"hello")]
    assert first.logprobs[0].top[0].piece == b"hello"
    assert reply.feed(with_logprobs(*ids("<"))) == []  # it might begin a stop: neither text nor logprobs yet
    released = reply.feed(with_logprobs(*ids("b")))
    assert text_of(released) == "<b"
    assert tokens_of_logprobs(released) == list(ids("<b"))


def test_logprobs_of_a_stop_and_beyond_are_not_told() -> None:
    events = told(a_reply(stop=("<e>",)), with_logprobs(HELLO, *ids("<e")), with_logprobs(*ids(">"), WORLD))
    assert tokens_of_logprobs(events) == [HELLO]


def test_logprobs_of_a_cut_character_come_when_it_is_whole() -> None:
    reply = a_reply()
    assert tokens_of_logprobs(reply.feed(with_logprobs(EURO_1))) == []
    assert tokens_of_logprobs(reply.feed(with_logprobs(EURO_2))) == [EURO_1, EURO_2]


def test_at_an_end_without_a_stop_all_logprobs_are_told() -> None:
    events = told(a_reply(stop=("<end>",)), with_logprobs(HELLO, *ids("<e")), Emission(1, n_hidden=1, finish="stop"))
    assert tokens_of_logprobs(events) == [HELLO, *ids("<e")]


TOKENS = st.lists(st.integers(0, VOCABULARY.n_tokens - 1) | st.sampled_from(ids("ab\n")), max_size=30)
STOPS = st.lists(st.sampled_from(["a", "ab", "\n\n", "ba\n", "€", "\ufffd"]), max_size=2, unique=True).map(tuple)


@given(TOKENS, STOPS, st.sets(st.integers(0, 30)), st.booleans())
def test_however_tokens_are_grouped_the_answer_is_the_same(
    tokens: list[int], stop: tuple[str, ...], cuts: set[int], wants_logprobs: bool
) -> None:
    def run(edges: list[int]) -> list[Event]:
        reply = a_reply(stop)
        events: list[Event] = []
        for a, b in pairwise(edges):
            part = tuple(tokens[a:b])
            events += reply.feed(with_logprobs(*part) if wants_logprobs else Emission(1, part))
        return events + reply.feed(Emission(1, n_hidden=1, finish="stop"))

    at_once = run([0, len(tokens)])
    in_parts = run([0, *sorted(cut for cut in cuts if cut < len(tokens)), len(tokens)])
    assert text_of(in_parts) == text_of(at_once)
    assert tokens_of_logprobs(in_parts) == tokens_of_logprobs(at_once)
    assert end_of(in_parts) == end_of(at_once)
    for events in (at_once, in_parts):
        assert isinstance(events[0], Started)
        deltas = [event for event in events if isinstance(event, Delta)]
        assert sum(delta.n_tokens for delta in deltas) == end_of(events).usage.n_generated
        for delta in deltas:
            delta.text.encode()
        assert not any(each in text_of(events) for each in stop)


class Thinks:
    """A splitter for the test: what stands before `|` is thought."""

    def __init__(self) -> None:
        self.n_calls = 0
        self.is_thinking = True
        self.is_done = False

    def feed(self, text: str) -> list[Segment]:
        if not self.is_thinking:
            return [Segment(text)]
        thought, bar, said = text.partition("|")
        self.is_thinking = not bar
        parts = [Segment(thought, "reasoning"), Segment(said)]
        return [part for part in parts if part.text]

    def flush(self) -> list[Segment]:
        return []


def test_a_splitter_sorts_text_into_channels_and_its_reasoning_is_counted() -> None:
    reply = Reply(0, model="m", n_prompt=1, vocabulary=VOCABULARY, splitter=Thinks())
    events = told(
        reply, Emission(1, (HELLO,)), Emission(1, ids("|")), Emission(1, (WORLD,)), Emission(1, finish="stop")
    )
    assert [(e.channel, e.text) for e in events if isinstance(e, Delta)] == [("reasoning", "hello"), ("text", " world")]
    assert end_of(events).usage.n_generated == 3
    assert end_of(events).usage.n_reasoning == 2  # the mark is still part of the thought


class Marked:
    """A splitter for the test: shows what it is fed, and is done with `done`."""

    n_calls = 1
    is_thinking = False
    is_done = False

    def feed(self, text: str) -> list[Segment]:
        self.is_done = text == "done"
        return [Segment(text)]

    def flush(self) -> list[Segment]:
        return []


def test_only_the_control_tokens_that_a_splitter_asks_for_are_read() -> None:
    reply = Reply(0, model="m", n_prompt=1, vocabulary=VOCABULARY, splitter=Marked(), markers={TURN: "<|turn|>"})
    events = told(reply, Emission(1, (BOS, HELLO, EURO_1, TURN, WORLD)), Emission(1, finish="stop"))
    assert text_of(events) == "hello\ufffd<|turn|> world"
    assert end_of(events).usage.n_generated == 5


def test_a_splitter_that_is_done_ends_the_answer() -> None:
    reply = Reply(0, model="m", n_prompt=1, vocabulary=VOCABULARY, splitter=Marked(), markers={TURN: "done"})
    events = told(reply, Emission(1, (HELLO, TURN, WORLD)))
    assert text_of(events) == "hellodone"
    assert end_of(events).reason == "tool"
    assert end_of(events).usage.n_generated == 2
    assert reply.is_finished
