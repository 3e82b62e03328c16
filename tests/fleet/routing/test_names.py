"""Laws of names: what a client's `model` stands for."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.fleet.routing.names import N_NEAR, Names

KNOWN = Names(
    [
        ("Qwen3-8B", "qwen"),
        ("llama3.2:3b", "llama"),
        ("gemma-3-4b-it-q4_0", "gemma"),
        ("gpt-*", "any-gpt"),
        ("gpt-4*-mini", "mini"),
        ("claude-*", "claude"),
        ("gpt-4o", "exact"),
    ]
)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("Qwen3-8B", "qwen"),
        ("qwen3-8b", "qwen"),
        ("QWEN3_8B", "qwen"),
        ("qwen3-8b.gguf", "qwen"),
        ("models/Qwen3-8B.GGUF", "qwen"),
        ("unsloth/Qwen3-8B-GGUF", "qwen"),
        ("unsloth/Qwen3-8B-GGUF:Q4_K_M", "qwen"),
        ("qwen3:8b", "qwen"),
        ("qwen3-8b:latest", "qwen"),
        ("qwen3", None),
        ("llama3.2", "llama"),
        ("llama3.2:latest", "llama"),
        ("llama3.2-3b", None),
        ("llama3.2:1b", None),
        ("gemma-3-4b-it:q4_0", "gemma"),
        ("gpt-4o", "exact"),
        ("gpt-4o-mini", "mini"),
        ("GPT-5", "any-gpt"),
        ("gpt-", "any-gpt"),
        ("gpt", None),
        ("claude-3-5-sonnet-latest", "claude"),
        ("", None),
        ("*", None),
    ],
)
def test_what_a_name_stands_for(asked: str, named: str | None) -> None:
    assert KNOWN.find(asked) == named


def test_what_may_mean_two_things_means_neither_and_the_nearest_is_told() -> None:
    names = Names([("qwen3:8b", "a"), ("qwen3:4b", "b"), ("Tiny", "c"), ("tiny", "d")])
    assert names.find("qwen3") is None
    assert names.find("TINY") is None
    assert names.find("tiny") == "d"
    assert names.nearest("qwen3:9b") in ("qwen3:8b", "qwen3:4b")
    assert names.nearest("somebody/Qwen3-4B.gguf") == "qwen3:4b"
    assert names.nearest("nothing like it") == ""


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6, unique=True), st.text(max_size=12))
def test_an_exact_name_always_wins_and_any_text_is_answered(names: list[str], asked: str) -> None:
    known = Names([(name, name) for name in names])
    assert all(known.find(name) == name for name in names if name)
    assert known.find(asked) in (*names, None)


def test_stars_cost_no_more_than_the_length_of_a_name() -> None:
    names = Names([("*a" * 30 + "*b", "x")])
    began = time.thread_time()
    assert names.find("a" * 1024) is None
    assert time.thread_time() - began < 0.1


def test_endings_cost_no_more_than_the_length_of_a_name() -> None:
    names = Names([("qwen3-8b", "x")])
    began = time.thread_time()
    assert names.find(".gguf" * 20_000 + "-") is None
    assert names.find("qwen3-8b" + ".gguf:latest" * 20_000) == "x"
    assert time.thread_time() - began < 0.5


def test_nobody_looks_for_what_is_near_a_name_that_is_longer_than_any() -> None:
    names = Names([("a" * N_NEAR, "x")])
    assert names.nearest("a" * (N_NEAR - 1)) == "a" * N_NEAR
    assert names.nearest("a" * (N_NEAR + 1)) == ""
