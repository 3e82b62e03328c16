"""A matcher says what may come, and what must; whatever is asked of it, the process lives."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Output
from llamahost.core.work import Constraint
from llamahost.native.constraint import MAX_LEVELS, ConstraintFailed, Grammars, Matcher, allowed, allows
from llamahost.native.model import Model
from llamahost.text.constraint import MAX_CHOICES, grammar_of
from tests.on_loop import LIMIT_S

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["name", "age", "ok"],
}


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Iterator[Model]:
    with Model.open(tiny_llama) as opened:
        yield opened


def spelled(model: Model, text: str) -> list[int]:
    return list(model.vocab.encode(text, add_special=False, parse_special=True))


def written(model: Model, tokens: list[int]) -> str:
    return b"".join(model.vocab.pieces[token] for token in tokens).decode()


def mask(model: Model, matcher: Matcher) -> np.ndarray[Any, np.dtype[np.bool_]]:
    words = np.zeros(model.grammars.n_words, np.int32)
    matcher.mask(words)
    return allowed(words, model.vocab.n_tokens)


def said(model: Model, constraint: Constraint, seed: int, n: int = 300) -> tuple[str, bool]:
    """A random answer that the constraint allows, and whether it came to an end."""
    rng = random.Random(seed)
    matcher = model.grammars.matcher(constraint)
    tokens: list[int] = []
    while len(tokens) < n and not matcher.is_complete:
        forced = matcher.forced()
        if forced:
            matcher.accept(*forced)
            tokens += forced
            continue
        token = int(rng.choice(np.flatnonzero(mask(model, matcher))))
        if token in model.vocab.end_ids:
            return written(model, tokens), True
        matcher.accept(token)
        tokens.append(token)
    return written(model, tokens), matcher.is_complete


def test_every_answer_that_ends_is_valid(model: Model) -> None:
    constraint = Constraint(grammar=grammar_of(Output("schema", json.dumps(SCHEMA))))
    n_ended = 0
    for seed in range(20):
        text, has_ended = said(model, constraint, seed)
        n_ended += has_ended
        if has_ended:
            value = json.loads(text)
            assert list(value) == ["name", "age", "ok"]
            assert len(value["name"]) <= 5
            assert isinstance(value["age"], int)
    assert n_ended >= 10


def test_what_is_forced_is_spelled_as_the_tokeniser_spells_it(model: Model) -> None:
    matcher = model.grammars.matcher(Constraint(grammar=grammar_of(Output("schema", json.dumps(SCHEMA)))))
    forced = list(matcher.forced())
    assert written(model, forced).startswith('{"name": ')
    assert forced == spelled(model, written(model, forced))


def test_the_mask_leaves_what_is_forced(model: Model) -> None:
    matcher = model.grammars.matcher(Constraint(grammar='start: "abc" /[0-9]+/'))
    forced = matcher.forced()
    words = np.zeros(model.grammars.n_words, np.int32)
    matcher.mask(words)
    assert allows(words, forced[0])
    assert not allows(words, spelled(model, "x")[0])
    matcher.accept(*forced)
    assert not mask(model, matcher)[spelled(model, "a")[0]]
    assert mask(model, matcher)[spelled(model, "7")[0]]


def test_ends_are_allowed_only_where_the_grammar_is_satisfied(model: Model) -> None:
    ends = sorted(model.vocab.end_ids)
    assert len(ends) > 1
    matcher = model.grammars.matcher(Constraint(grammar='start: "a" /[0-9]*/'))
    assert not mask(model, matcher)[ends].any()
    matcher.accept(*matcher.forced())
    assert mask(model, matcher)[ends].all()
    matcher.accept(ends[-1])
    assert matcher.is_complete


def test_a_trigger_sets_the_grammar_in_whatever_tokens_it_comes(model: Model) -> None:
    constraint = Constraint(grammar='start: "[" /[0-9]{2}/ "]"', triggers=("<call>",), repeats=True)
    matcher = model.grammars.matcher(constraint)
    for token in spelled(model, "some <calling of <cal"):
        assert matcher.is_free
        matcher.accept(token)
    freedom = []
    for text in ("l", ">", None, "4", "2", None, "]<call>"):
        for token in matcher.forced() if text is None else spelled(model, text):
            matcher.accept(token)
        freedom.append(matcher.is_free)
    assert freedom == [True, False, False, False, False, True, False]
    assert not matcher.is_complete


def test_without_repeats_the_answer_ends_with_the_grammar(model: Model) -> None:
    matcher = model.grammars.matcher(Constraint(grammar='start: "!" "?"', triggers=("x",)))
    for token in spelled(model, "x"):
        matcher.accept(token)
    matcher.accept(*matcher.forced())
    assert matcher.is_complete
    assert matcher.forced() == ()


def test_a_token_that_overshoots_a_trigger_stands_only_if_its_rest_fits(model: Model) -> None:
    long = next(t for t, piece in enumerate(model.vocab.pieces) if len(piece) == 2 and piece.isalpha())
    first, rest = written(model, [long])[:1], written(model, [long])[1:]
    fits = model.grammars.matcher(Constraint(grammar=f'start: "{rest}!"', triggers=(first,)))
    assert fits.stands(long)
    fits.accept(long)
    assert written(model, list(fits.forced())) == "!"
    other = model.grammars.matcher(Constraint(grammar='start: "!"', triggers=(first,)))
    assert not other.stands(long)


def test_nothing_triggers_while_it_is_quiet(model: Model) -> None:
    constraint = Constraint(
        grammar='start: "1"', triggers=("<call>",), quiet=(("<think>", "</think>"),), starts_quiet=True
    )
    matcher = model.grammars.matcher(constraint)
    for text, is_free in (
        ("<call> no", True), ("</think> <think> <call>", True), ("</think>", True), ("<call>", False),
    ):  # fmt: skip
        for token in spelled(model, text):
            matcher.accept(token)
        assert matcher.is_free == is_free


@pytest.mark.parametrize(
    ("text", "is_held"),
    [
        ("[get(", True),
        (" \n [get(", True),
        ("<think> [get( </think>\n[get(", True),
        ("Well, [get(", False),
        ("<think> hm </think> Well: [get(", False),
        ("[go [get(", False),
        ("Well <call>[get(", True),
    ],
)
def test_a_start_begins_the_grammar_where_the_words_begin_with_it_and_is_of_it(
    model: Model, text: str, is_held: bool
) -> None:
    constraint = Constraint(
        grammar='start: "[get(" "1"', starts=("[get(", "[got("), triggers=("<call>",), quiet=(("<think>", "</think>"),)
    )
    matcher = model.grammars.matcher(constraint)
    for token in spelled(model, text):
        matcher.accept(token)
    assert matcher.is_free != is_held
    if is_held:
        assert written(model, list(matcher.forced())) == "1"


def test_thoughts_that_the_prompt_left_open_come_before_the_grammar(model: Model) -> None:
    constraint = Constraint(grammar='start: "{}"', quiet=(("<think>", "</think>"),), starts_quiet=True)
    matcher = model.grammars.matcher(constraint)
    for token in spelled(model, "well </think>"):
        assert matcher.is_free
        matcher.accept(token)
    assert written(model, list(matcher.forced())) == "{}"


def test_a_token_against_the_grammar_is_an_error_of_its_matcher_alone(model: Model) -> None:
    constraint = Constraint(grammar='start: "a" "b"')
    matcher = model.grammars.matcher(constraint)
    with pytest.raises(ConstraintFailed):
        matcher.accept(*spelled(model, "z"))
    assert written(model, list(model.grammars.matcher(constraint).forced())) == "ab"


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("start: a", "a"),
        ("nothing of the kind", ""),
        ("start: /a(?=b)/", "look-around"),
        ("start: <no_such_token>", "no_such_token"),
        ("start: <[99999999]>", ""),
        ('start: %json {"oneOf": [{}, {}]}', "oneOf"),
        ("start: " + "(" * 5000 + '"a"' + ")" * 5000, ""),
        ("start: /" + "(" * 5000 + "a" + ")" * 5000 + "/", ""),
        ('start: "a"\n' + "x" * (1 << 20), "too large"),
        ("start: " + " | ".join('"(("' for _ in range(MAX_LEVELS)), "too large"),
        ("start: \ud800", ""),
        ("start: " + " | ".join(f'"a{k}"' for k in range(2100)), "max is 2000"),
    ],
)
def test_a_grammar_that_cannot_be_followed_is_refused(model: Model, grammar: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        model.grammars.compile(grammar)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rules", "terminals", "references"])
def test_the_deepest_grammar_that_is_let_in_costs_no_process(model: Model, kind: str) -> None:
    n = {"rules": MAX_LEVELS - 10, "terminals": MAX_LEVELS - 10, "references": MAX_LEVELS // 9}[kind]
    if kind == "references":
        definitions: dict[str, Any] = {
            f"d{k}": {"type": "array", "items": {"$ref": f"#/$defs/d{k + 1}"}} for k in range(n)
        }
        definitions[f"d{n}"] = {"type": "null"}
        grammar = "start: %json " + json.dumps({"$ref": "#/$defs/d0", "$defs": definitions})
    else:
        r = "r" if kind == "rules" else "R"
        grammar = f"start: {r}0\n" + "\n".join(f"{r}{k}: {r}{k + 1}" for k in range(n)) + f'\n{r}{n}: "a"'
    said(model, Constraint(grammar=grammar), 1, n=20)


def test_one_grammar_is_compiled_once_for_all_who_come_together(model: Model) -> None:
    grammars = Grammars(model.library, model.vocab)
    errors: list[BaseException] = []

    def use(number: int) -> None:
        try:
            for k in range(20):
                matcher = grammars.matcher(Constraint(grammar=f'start: "a{(number + k) % 3}" /[a-z]+/'))
                matcher.accept(*matcher.forced())
                mask(model, matcher)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(grammars._compiled) == 3
    grammars.close()
    with pytest.raises(InvalidRequest, match="closed"):
        grammars.compile('start: "new"')


def test_a_tokenizer_that_is_being_built_keeps_no_model_from_closing(tiny_llama: Path) -> None:
    for waits in (False, True):
        own = Model.open(tiny_llama)
        own.grammars.prepare()
        if waits:
            assert own.grammars.compile('start: "a"') is own.grammars.compile('start: "a"')
        own.close()
        with pytest.raises(InvalidRequest, match="closed"):
            own.grammars.compile('start: "b"')


def test_an_answer_begins_while_another_grammar_is_compiled(model: Model) -> None:
    grammars = Grammars(model.library, model.vocab, n_kept=1)
    forgotten = Constraint(grammar='start: "ab"', compiled=grammars.compile('start: "ab"'))
    kept = Constraint(grammar='start: "cd"')
    grammars.compile(kept.grammar)
    begun: list[str] = []

    def begin() -> None:
        begun.extend(written(model, list(grammars.matcher(constraint).forced())) for constraint in (forgotten, kept))

    with grammars._compiling:  # somebody compiles, for as long as he likes
        thread = threading.Thread(target=begin, daemon=True)
        thread.start()
        thread.join(LIMIT_S)
        assert begun == ["ab", "cd"]
    grammars.close()


def test_as_many_choices_as_a_request_may_have_are_held(model: Model) -> None:
    grammar = grammar_of(Output("choice", json.dumps([f"choice {k} of all" for k in range(MAX_CHOICES)])))
    text, _ = said(model, Constraint(grammar=grammar, compiled=model.grammars.compile(grammar)), 1)
    assert text in [f"choice {k} of all" for k in range(MAX_CHOICES)]


def test_what_is_kept_is_bounded_in_its_characters(model: Model) -> None:
    grammars = Grammars(model.library, model.vocab, n_kept_characters=40)
    for letters in ("aa", "bb", "cc", "d" * 60, "ee"):
        grammars.compile(f'start: "{letters}"')
        assert len(grammars._compiled) == 1 or sum(map(len, grammars._compiled)) <= 40
    assert list(grammars._compiled) == ['start: "ee"']
    grammars.close()


def test_what_was_used_the_longest_ago_is_forgotten_first(model: Model) -> None:
    grammars = Grammars(model.library, model.vocab, n_kept=2)
    for letter in "abac":
        grammars.compile(f'start: "{letter}{letter}"')
    assert list(grammars._compiled) == ['start: "aa"', 'start: "cc"']
    grammars.close()
