"""Laws of the examples that the built-in model learns from: equal seeds, a wall, and the template's own form."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations, islice
from pathlib import Path

import pytest

from llamahost.core.messages import Tool, ToolCall
from llamahost.text.template import Template
from tools.train_builtin.draw import Drawer, Example
from tools.train_builtin.kinds import calls, code, facts, numbers, product, talk
from tools.train_builtin.kinds.words import HELD_NOUNS, SMALL_WORDS
from tools.train_builtin.mixture import KINDS, held_out, stream
from tools.train_builtin.pairs import held_questions, held_sentences, pairs
from tools.train_builtin.render import TEMPLATE, pieces, said
from tools.train_builtin.score import KINDS as SCORED
from tools.train_builtin.score import Said, Score, is_right, message_of, table, tells, write_into
from tools.train_builtin.style import is_styled, styled
from tools.train_builtin.tokenizer import CONTROL, SHOWN, learn

N = 1500


def drawn(seed: int, n: int) -> list[Example]:
    return list(islice(stream(seed, lambda: 1.0), n))


@pytest.fixture(scope="module")
def training() -> list[Example]:
    return drawn(3, 3 * N)  # the rarest kind is one in five hundred


def asked(example: Example) -> list[str]:
    return [turn["content"] for turn in example.turns if turn["role"] == "user"]


def test_equal_seeds_make_equal_examples_and_others_other_ones(training: list[Example]) -> None:
    assert drawn(3, 300) == training[:300]
    assert drawn(2, 300) != training[:300]


def test_no_held_out_wording_is_trained_on(training: list[Example]) -> None:
    shown = {text.lower().rstrip("?.!") for example in training for text in asked(example)}
    held = {text.lower().rstrip("?.!") for wordings, *_ in (*product.QUESTIONS, *talk.SMALL) for text in wordings[-2:]}
    held |= {text.lower().rstrip("?.!") for text in (*talk.TASKS[-2:], *talk.TOLD[-2:]) if "{" not in text}
    assert not shown & held
    assert not {ask.format(does).lower().rstrip(".") for ask in code.ASK[-2:] for _, does, *_ in code.FUNCTIONS} & shown
    assert not [
        text for text in shown if text.startswith(tuple(ask.partition("{}")[0].lower() for ask in code.ASK[-2:]))
    ]
    ends = [ask.partition("{}")[0].lower() for ask in facts.ASK_CAPITAL[-2:]]
    assert not [text for text in shown if any(text.startswith(end) for end in ends)]


def test_small_talk_is_scored_on_no_greeting() -> None:
    """All greetings are learned: as held out they would flatter."""
    asked_for = {text.lower().rstrip("?.!") for wordings, *_ in talk.SMALL for text in wordings[-2:]}
    d = Drawer(5, held=True)
    for _ in range(N):
        question = talk.small_talk(d).turns[0]["content"].lower().rstrip("?.!")
        assert any(question.endswith(each) for each in asked_for), question


def test_held_out_pairs_and_nouns_are_not_trained_on() -> None:
    d = Drawer(5)
    for example in (make(d) for make in (numbers.sum_, numbers.two) for _ in range(3 * N)):
        answer = example.turns[-1]
        for a, sign, b in re.findall(r"(\d+) (\S) (\d+) =", answer.get("reasoning", "") + "; " + answer["content"]):
            assert not (numbers.is_held if sign == "*" else numbers.is_held_sum)(int(a), int(b))
    assert not set(calls.NOUNS) & set(HELD_NOUNS)
    assert not {d.made_up(1, 1) for _ in range(20_000)} & set(HELD_NOUNS)
    assert not {d.coined() for _ in range(20_000)} & set(HELD_NOUNS)
    for example in held_out("arithmetic", "arithmetic", 1, 50):
        a, _, b, *_ = example.turns[-1]["content"].split()
        assert numbers.is_held_sum(int(a), int(b))


def test_of_a_hasty_question_only_small_words_are_missing_and_none_where_it_is_held_out() -> None:
    d, held = Drawer(5), Drawer(5, held=True)
    n_shorter = 0
    for example in (facts.fact(d) for _ in range(N)):
        asked = example.turns[0]["content"]
        whole = Counter(re.findall(r"\w+", asked))
        left = Counter(re.findall(r"\w+", d.hasty(asked)))
        assert left <= whole
        assert {word.lower() for word in whole - left} <= SMALL_WORDS
        assert held.hasty(asked) == asked
        n_shorter += left != whole
    assert N / 10 < n_shorter < N / 4


def test_what_it_is_told_to_be_too_small_for_is_nothing_that_it_learns_to_reckon() -> None:
    d = Drawer(5)
    for question in (numbers.large(d) for _ in range(N)):
        first, second = map(int, re.findall(r"\d+", question))
        assert max(first, second) > 99 or "/" in question or "divided" in question


@pytest.mark.parametrize("held", [False, True])
def test_no_request_could_mean_two_functions(held: bool) -> None:
    asks = {said: set(ways) for _, said, ways in calls.VERBS}
    d = Drawer(5, held=held)
    for example in (make(d) for make in (calls.call, calls.choosing) for _ in range(N // 3)):
        meant = [tool["description"].split(" the ") for tool in example.tools]
        for (verb, noun), (other, same) in combinations(meant, 2):
            assert noun != same or asks[verb].isdisjoint(asks[other])


def test_each_piece_of_the_vocabulary_is_said_and_no_held_out_noun() -> None:
    d = Drawer(5, pieces=("doc", "ument", "temperature", "licen", "se"))
    words = {d.pieced() for _ in range(2000)}
    assert all(any(piece in word for word in words) for piece in d.pieces)
    assert not words & set(HELD_NOUNS)
    examples = islice(stream(3, lambda: 1.0, d.pieces), N)
    nouns = {tool["description"].split()[-1].rstrip(".") for example in examples for tool in example.tools}
    assert {word for word in nouns if "licen" in word}
    assert not nouns & set(HELD_NOUNS)


def test_of_every_two_last_digits_some_sum_is_trained_on() -> None:
    assert all(
        any(not numbers.is_held_sum(a, b) for a in range(first, 100, 10) for b in range(second, 100, 10))
        for first in range(10)
        for second in range(10)
    )


def test_no_held_out_wording_is_among_the_pairs_for_sentence_vectors() -> None:
    shown = {text.lower().rstrip("?.!") for pair in islice(pairs(3), N) for text in (pair.query, pair.document)}
    assert not {pair.query.lower().rstrip("?.!") for pair in held_questions()} & shown
    assert not {pair.document.lower().rstrip(".") for pair in held_sentences(1, 100)} & shown
    assert len({pair.key for pair in held_questions()}) == len(product.QUESTIONS)


@pytest.mark.parametrize("text", ["It listens on port 8080.", "How can I help you?", "Paris", "No!"])
def test_a_pirate_says_every_word(text: str) -> None:
    assert is_styled(styled(text))
    assert not is_styled(text)
    assert text.rstrip(".?!") in styled(text)


def test_no_answer_to_another_question_counts_as_right() -> None:
    answers = [(answer, facts) for _, answer, facts in (*product.QUESTIONS, *talk.SMALL)]
    for wanted, facts_of in answers:
        example = Example("llamahost", ({"role": "assistant", "content": wanted},), facts=facts_of)
        assert [said for said, _ in answers if is_right(example, Said(said, (), True))] == [wanted]


@pytest.mark.parametrize(
    ("fact", "text"), [("100", "There are 1000 centimetres in a metre."), ("= 42", "27 + 15 = 420"), ("Oslo", "Oslos")]
)
def test_a_fact_is_held_as_words_of_its_own(fact: str, text: str) -> None:
    example = Example("facts", ({"role": "assistant", "content": fact},), facts=(fact,))
    assert is_right(example, Said(f"It is {fact}.", (), True))
    assert not is_right(example, Said(text, (), True))


@pytest.mark.parametrize(
    ("facts_of", "wanted"), [((), "27 + 15 = 42"), (("Jupiter is large.",), ""), (("Paris",), "It is Paris.")]
)
def test_a_style_hides_no_answer_and_makes_none(facts_of: tuple[str, ...], wanted: str) -> None:
    example = Example("facts", ({"role": "assistant", "content": wanted},), facts=facts_of)
    assert tells(example, styled(wanted or facts_of[0]))
    assert not tells(example, styled("27 + 15 = 420"))


def test_of_what_it_cannot_know_either_admission_is_right_and_nothing_made_up() -> None:
    (example,) = held_out("unknown", "unknown", 1, 1)
    assert all(is_right(example, Said(text, (), True)) for text in (talk.DONT_KNOW, talk.TOO_SMALL))
    assert not any(is_right(example, Said(text, (), True)) for text in (talk.I_SEE, "There are 100 people."))


def test_json_is_compared_with_the_kinds_of_its_values() -> None:
    example = Example("filling", ({"role": "assistant", "content": '{"a": 1, "b": true}'},))
    assert is_right(example, Said('{"b": true, "a": 1}', (), True))
    for text in ('{"a": 1.0, "b": true}', '{"a": 1, "b": 1}', '{"a": "1", "b": true}'):
        assert not is_right(example, Said(text, (), True))
    call = {"name": "f", "arguments": {"loud": True}}
    example = Example("calls", ({"role": "assistant", "content": "", "tool_calls": [call]},))
    assert is_right(example, Said("", (ToolCall("1", "f", '{"loud": true}'),), True))
    assert not is_right(example, Said("", (ToolCall("1", "f", '{"loud": 1}'),), True))


def test_a_held_out_middle_is_of_a_known_function_with_arguments_that_nobody_has_named() -> None:
    names = {name for name, *_ in code.FUNCTIONS}

    def header(raw: tuple[str, str] | None) -> tuple[str, str]:
        """The function's name, and its arguments."""
        assert raw is not None
        name, _, rest = "".join(raw).removeprefix(f"{code.PREFIX}def ").partition("(")
        return name, rest.partition(")")[0]

    d = Drawer(5)
    shown = {header(code.middle(d).raw)[1] for _ in range(N)}
    for example in held_out("middles", "middles", 1, 100):
        name, arguments = header(example.raw)
        assert name in names
        assert arguments not in shown


@pytest.mark.parametrize("kind", sorted(SCORED))
def test_what_is_wanted_counts_as_right_and_silence_does_not(kind: str) -> None:
    for example in held_out(*SCORED[kind], 7, 10):
        last = {"content": example.raw[1]} if example.raw else example.turns[-1]
        right = Said(last["content"], message_of({"role": "assistant", **last}).tool_calls, True)
        assert is_right(example, right)
        assert not is_right(example, Said("", (), True))


def test_pieces_are_what_the_template_of_the_file_renders(training: list[Example]) -> None:
    template = Template(TEMPLATE)
    seen = Counter[str]()
    for example in training:
        if example.raw is not None or seen[example.kind] == 20:
            continue
        seen[example.kind] += 1
        tools = [Tool(name=t["name"], description=t["description"], parameters=t["parameters"]) for t in example.tools]
        prompt = template.render(
            [message_of(turn) for turn in example.turns[:-1]],
            tools=tools,
            options={"enable_thinking": example.is_thinking},
        )
        whole = "".join(piece.text for piece in pieces(example))
        assert whole == prompt + said(example.turns[-1]) + "<|im_end|>\n"
    assert {"calls", "thinking", "recall", "obeying"} <= set(seen)


def test_only_what_the_assistant_says_is_learned(training: list[Example]) -> None:
    for example in training[:300]:
        learned = [piece.text for piece in pieces(example) if piece.is_learned]
        assert all("<|im_start|>" not in text for text in learned)
        assert learned


def test_a_call_is_json_and_names_a_function_that_was_given() -> None:
    for example in held_out("calls", "calls", 2, 50):
        text = said(example.turns[-1]).removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
        call = json.loads(text)
        schema = next(tool for tool in example.tools if tool["name"] == call["name"])
        assert set(call["arguments"]) == set(schema["parameters"]["properties"])


def test_equal_texts_make_equal_vocabularies_whose_merges_build_on_each_other(training: list[Example]) -> None:
    texts = ["".join(piece.text for piece in pieces(example)) for example in training[:150]]
    vocabulary = learn(iter(texts), 500)
    assert vocabulary == learn(iter(texts), 500)
    assert vocabulary.tokens[: len(CONTROL) + len(SHOWN)] == (*CONTROL, *SHOWN)
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens) <= 500
    known = set(vocabulary.tokens[: -len(vocabulary.merges)])
    for left, right in (merge.split(" ") for merge in vocabulary.merges):  # each is made of what was there before it
        assert {left, right} <= known
        known.add(left + right)
    text = "".join(vocabulary.tokens)
    assert vocabulary.word_pieces()
    assert all(piece.isalpha() and piece.islower() and piece in text for piece in vocabulary.word_pieces())


def test_thinking_is_shown_with_more_than_sums(training: list[Example]) -> None:
    """A model that has seen thoughts before sums alone answers nothing to anything else that it is to think about."""
    thought_of = {example.kind for example in training if example.is_thinking}
    assert {"thinking", "joined", "calls", "llamahost", "filling"} <= thought_of


def test_each_kind_of_the_mixture_has_a_share(training: list[Example]) -> None:
    kinds = {example.kind for example in training}
    assert {"joined", *KINDS} - {"plain"} <= kinds


def test_a_score_is_never_rounded_up() -> None:
    text = table([Score("recall", 8999, 10000), Score("capitals", 95, 100)])
    assert "| recall | 8999 | 10000 | 89.9 | 90 not reached |" in text
    assert "| capitals | 95 | 100 | 95.0 | 95 reached |" in text


def test_scores_are_written_between_the_marks_alone(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("before\n<!-- scores -->\nold\n<!-- end of scores -->\nafter\n")
    write_into(card, "new")
    assert card.read_text() == "before\n<!-- scores -->\nnew\n<!-- end of scores -->\nafter\n"
