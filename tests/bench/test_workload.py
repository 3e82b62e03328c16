"""Workloads: equal arguments make equal bytes, and what is sent has the shape that its name says."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest

from llamahost.bench.session import WARM_UP, calibration_of
from llamahost.bench.workload import (
    WORDS,
    WORKLOADS,
    Calibration,
    Conversation,
    Endpoint,
    Shape,
    arrivals,
    probe,
    script,
)

SHAPE = Shape(model="m")


def made(name: str, shape: Shape = SHAPE, *, round_no: int = 0, n: int = 8) -> list[Conversation]:
    return script(WORKLOADS[name], shape, round_no=round_no, n_clients=4, n_conversations=n)


def fields(body: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(body)
    return parsed


def prompts(conversations: list[Conversation]) -> list[str]:
    return [fields(turn)["prompt"] for conversation in conversations for turn in conversation.turns]


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_equal_arguments_make_equal_bytes(name: str, endpoint: Endpoint) -> None:
    shape = replace(SHAPE, endpoint=endpoint)
    assert made(name, shape) == made(name, shape)
    assert made(name, shape) == made(name, shape, n=16)[:8]


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_prompt_comes_twice_in_rounds_or_warm_up(name: str) -> None:
    everything = [text for round_no in (WARM_UP, 0, 1) for text in prompts(made(name, round_no=round_no))]
    assert len(set(everything)) == len(everything)
    assert made(name, replace(SHAPE, seed=2)) != made(name)


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_every_body_streams_and_asks_for_usage(name: str, endpoint: Endpoint) -> None:
    for conversation in made(name, replace(SHAPE, endpoint=endpoint)):
        for turn in conversation.turns:
            body = fields(turn)
            assert body["stream"] is True
            assert body["stream_options"] == {"include_usage": True}
            assert body["ignore_eos"] is True
            assert body["max_tokens"] >= 1
            assert ("prompt" in body) == (endpoint == "completions")


def test_only_sampling_sends_a_seed_and_openai_fields_alone_can_be_had() -> None:
    assert "seed" not in fields(made("short")[0].turns[0])
    shape = replace(SHAPE, temperature=0.8, ignore_eos=False)
    body = fields(made("short", shape)[0].turns[0])
    assert (body["seed"], "ignore_eos" in body) == (1, False)


def test_a_wave_shares_its_prefix_and_the_next_wave_has_another() -> None:
    heads = [text.split("\n\n")[0] for text in prompts(made("shared-prefix", n=8))]
    assert len(set(heads[:4])) == len(set(heads[4:])) == 1
    assert heads[0] != heads[4]
    assert len(heads[0].split()) == WORKLOADS["shared-prefix"].n_prompt


def test_an_agents_turns_grow_by_what_was_said() -> None:
    for conversation in made("agent"):
        turns = [fields(turn)["prompt"].removesuffix("assistant:") for turn in conversation.turns]
        assert all(after.startswith(before) for before, after in pairwise(turns))
    first, second = made("agent")[:2]
    head, _, _ = prompts([first])[0].partition("\nuser:")
    assert prompts([second])[0].startswith(head)


@pytest.mark.parametrize("n_tokens", [32, 900])
def test_lengths_are_in_tokens(n_tokens: int) -> None:
    shape = replace(SHAPE, n_prompt=n_tokens, calibration=Calibration(per_word=2.0, base=10.0))
    assert len(prompts(made("short", shape))[0].split()) == (n_tokens - 10) / 2


def test_calibration_undoes_what_it_measured() -> None:
    calibration = calibration_of([5 + 16 * 3, 5 + 96 * 3])
    assert calibration == Calibration(per_word=3.0, base=5.0)
    assert calibration.n_words(5 + 3 * 40) == 40
    assert calibration_of([0, 0]).per_word > 0


def test_a_probe_has_the_words_that_it_says() -> None:
    words = fields(probe(SHAPE, 96))["prompt"].split()
    assert len(words) == len(set(words)) == 96
    assert len(set(WORDS)) == len(WORDS)


def test_arrivals_ascend_at_their_rate_and_repeat_by_seed() -> None:
    times = arrivals(50.0, 5000, seed=1, round_no=0)
    assert times == sorted(times) == arrivals(50.0, 5000, seed=1, round_no=0)
    assert times != arrivals(50.0, 5000, seed=1, round_no=1)
    assert times[-1] == pytest.approx(100.0, rel=0.1)
