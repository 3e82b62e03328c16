"""JSON Schema's official test suite: what a grammar of a schema lets through is valid under it, and ends.

The suite is in the sources of `jsonschema`, which also judges what is generated here. Schemas that cannot be held to
are refused by one of the keywords that the README names.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import llguidance
import pytest

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Output
from llamahost.text.constraint import explained, grammar_of
from tests.archive import archive

pytestmark = pytest.mark.slow

REFUSED = {
    "$ref": "to elsewhere, to an $anchor or beside an $id",
    "$id": "within a schema",
    "$dynamicRef": "",
    "if": "",
    "not": "",
    "contains": "",
    "uniqueItems": "",
    "propertyNames": "",
    "dependentRequired": "",
    "dependentSchemas": "",
    "unevaluatedItems": "",
    "unevaluatedProperties": "",
    "format": "of a kind that the README does not name",
    "oneOf": "of options that may overlap",
    "patternProperties": "of patterns that may overlap",
    "multipleOf": "of a fraction that no whole number is",
    "": "false, of which there is no value",
}
DIFFERENT = {
    "format": (10, "a format is held to, where the suite takes it for a remark"),
    "const": (5, "one way of writing each: no 1.0 for 1, keys in the schema's order"),
    "enum": (4, "the same"),
    "type": (1, "the same"),
    "allOf": (2, "keys stand in the order of the schema"),
    "anyOf": (1, "the same"),
    "additionalProperties": (1, "an object that lists its properties has no others, unless it says so"),
    "properties": (1, "the same"),
    "unevaluatedProperties": (1, "the same"),
    "ref": (1, "an $id within `definitions` is not looked for"),
    "vocabulary": (1, "every keyword holds, whatever vocabulary the schema says it is of"),
}
"""Files of the suite, how many valid values no grammar here lets through, and why. None goes the other way."""

N_SEEDS = 10
TOKENIZER = llguidance.LLTokenizer("byte")


class Case(NamedTuple):
    file: str
    schema: Any
    tests: list[dict[str, Any]]


@cache
def cases() -> tuple[Case, ...]:
    found = []
    with tarfile.open(archive("jsonschema")) as sources:
        for member in sources:
            path = Path(member.name)
            if str(path.parent).endswith("json/tests/draft2020-12") and (file := sources.extractfile(member)):
                found += [Case(path.stem, group["schema"], group["tests"]) for group in json.load(file)]
    assert len(found) > 300
    return tuple(found)


def matcher_of(grammar: str) -> Any:
    matcher = llguidance.LLMatcher(TOKENIZER, grammar, log_level=0)
    if matcher.is_error():
        raise InvalidRequest(matcher.get_error())
    return matcher


def held() -> Iterator[tuple[Case, Any]]:
    """Those that are not refused, each with a matcher at its beginning."""
    for case in cases():
        try:
            yield case, matcher_of(grammar_of(Output("schema", json.dumps(case.schema), "it")))
        except InvalidRequest:
            continue


def takes(matcher: Any, data: bytes) -> bool:
    copy = matcher.deep_copy()
    return bool(copy.try_consume_tokens(list(data)) == len(data) and copy.is_accepting())


def generated(matcher: Any, draw: random.Random, n_max: int = 600) -> bytes | None:
    """Bytes at random, those that close something more likely than others; None where they came to no end."""
    written = bytearray()
    while len(written) < n_max:
        if matcher.is_accepting() and (matcher.is_stopped() or draw.random() < 0.5):
            return bytes(written)
        mask = matcher.compute_bitmask()
        allowed = [token for token in range(256) if mask[token >> 3] >> (token & 7) & 1]
        if not allowed:
            return bytes(written)
        token = draw.choices(allowed, [8 if token in b'"}],' else 1 for token in allowed])[0]
        assert matcher.consume_token(token), matcher.get_error()
        written.append(token)
    return None


def test_what_is_invalid_is_never_let_through_and_what_is_valid_but_for_known_reasons() -> None:
    missed: Counter[str] = Counter()
    n_tests = 0
    for case, matcher in held():
        for test in case.tests:
            n_tests += 1
            is_taken = takes(matcher, json.dumps(test["data"], ensure_ascii=False).encode())
            assert test["valid"] or not is_taken, (case.file, case.schema, test)
            missed[case.file] += test["valid"] and not is_taken
    assert n_tests > 600
    assert +missed == {file: n for file, (n, _) in DIFFERENT.items()}


def test_every_value_that_is_generated_is_valid_and_nine_in_ten_end() -> None:
    n_ended = n_begun = 0
    for case, matcher in held():
        judge = jsonschema.Draft202012Validator(
            case.schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )
        for seed in range(N_SEEDS):
            n_begun += 1
            written = generated(matcher.deep_copy(), random.Random(seed))
            if written is not None:
                n_ended += 1
                assert judge.is_valid(json.loads(written)), (case.file, case.schema, written)
    assert n_ended >= 0.9 * n_begun > 1000


def complaint(case: Case) -> InvalidRequest | None:
    output = Output("schema", json.dumps(case.schema), "it")
    try:
        grammar = grammar_of(output)
    except InvalidRequest as error:
        return error
    try:
        matcher_of(grammar)
    except InvalidRequest as error:
        return explained(output, error, matcher_of)
    return None


def test_what_is_refused_names_a_keyword_that_is_known_to_be() -> None:
    refused = [(case, error) for case in cases() if (error := complaint(case)) is not None]
    assert len(refused) < 0.5 * len(cases())
    for case, error in refused:
        named = str(error.param).removeprefix("it").rpartition("/")[2]
        assert (
            named in REFUSED
            or any(word and f"`{word}`" in str(error) for word in REFUSED)
            or ("multipleOf" in str(case.schema) or "patternProperties" in str(case.schema))
        ), (case.schema, error)
