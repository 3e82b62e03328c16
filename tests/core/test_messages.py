"""Laws of requests: what is out of range is refused where it is made, with the field's name."""

import math
from dataclasses import fields

import pytest

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Image, Message, Text
from llamahost.core.sampling import SAMPLERS, Sampling, SamplingOptions


def test_every_sampling_field_may_be_an_option() -> None:
    assert {field.name for field in fields(Sampling)} == set(SamplingOptions.__annotations__)


def test_the_defaults_are_in_range_and_hold_every_sampler() -> None:
    assert Sampling().samplers == SAMPLERS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 1.01),
        ("min_p", -1e-9),
        ("top_k", 2**31),
        ("mirostat", 3),
        ("repeat_penalty", 0.0),
        ("frequency_penalty", -math.inf),
        ("repeat_last_n", -2),
        ("seed", -1),
        ("seed", 2**32),
        ("samplers", ("top_k", "magic")),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", ((2**31, 1.0),)),
        ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((1, math.inf),)),
        ("logit_bias", ((1, 1e308),)),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_k", "40"),
        ("temperature", None),
        ("temperature", "hot"),
        ("repeat_last_n", 0.5),
        ("seed", 1.5),
        ("logit_bias", ((1.5, 1.0),)),
        ("logit_bias", ((1,),)),
        ("logit_bias", (1,)),
        ("logit_bias", ((1, "much"),)),
        ("dry_sequence_breakers", (1,)),
        ("dry_sequence_breakers", ("a",) * 33),
    ],
)
def test_a_value_out_of_range_names_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Sampling(**{field: value})  # type: ignore[arg-type]  # any field, by name
    assert caught.value.param == field


def test_a_bias_of_minus_infinity_bans() -> None:
    assert Sampling(logit_bias=((1, -math.inf),)).logit_bias == ((1, -math.inf),)


def test_a_temperature_that_32_bits_cannot_divide_by_is_greedy() -> None:
    assert Sampling(temperature=1e-40).temperature == 0.0
    assert Sampling(temperature=1e-6).temperature == 1e-6


def test_options_replace_only_what_they_give_and_are_checked() -> None:
    base = Sampling(temperature=0.5, top_k=7)
    assert base.with_options({"top_k": 9}) == Sampling(temperature=0.5, top_k=9)
    assert base.with_options({}) == base
    with pytest.raises(InvalidRequest):
        base.with_options({"top_p": 2.0})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 2**31),
        ("n", 0),
        ("n", 129),
        ("n_logprobs", 21),
        ("stop", ("",)),
        ("stop", ("x",) * 65),
        ("stop", ("x" * 1025,)),
        ("timeout_s", 0.0),
        ("timeout_s", math.inf),
        ("timeout_s", math.nan),
    ],
)
def test_a_generation_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Generation(**{field: value})  # type: ignore[arg-type]  # any field, by name
    assert caught.value.param


@pytest.mark.parametrize(
    ("field", "value", "most"),
    [
        ("max_tokens", 2**31, "2147483647"),
        ("least_indent", 2**31, "2147483647"),
        ("n_logprobs", -1, "0 to 20"),
        ("timeout_s", 1e9, "1000000000"),
        ("line_limit_s", 1e9, "1000000000"),
    ],
)
def test_what_is_refused_is_told_the_range_that_it_left(field: str, value: float, most: str) -> None:
    with pytest.raises(InvalidRequest, match=most):
        Generation(**{field: value})  # type: ignore[arg-type]  # any field, by name


def test_no_calls_at_all_are_asked_for_by_tool_choice() -> None:
    """An answer that may hold none would be over before its first word."""
    user = Message(role="user", parts=(Text("hi"),))
    with pytest.raises(InvalidRequest, match="from 1 on"):
        ChatRequest(messages=(user,), n_calls=0)


def test_a_request_asks_for_something() -> None:
    with pytest.raises(InvalidRequest):
        ChatRequest(messages=())
    with pytest.raises(InvalidRequest):
        CompletionRequest(prompts=())


def test_a_messages_text_is_its_text_parts() -> None:
    assert Message(role="user", parts=(Text("a"), Image(b"x"), Text("b"))).text == "ab"


def test_a_seed_changes_nothing_else() -> None:
    sampling = Sampling(temperature=0.5, logit_bias=((1, 2.0),), seed=1)
    assert sampling.with_seed(7) == Sampling(temperature=0.5, logit_bias=((1, 2.0),), seed=7)
    assert sampling.with_seed(7).logit_bias is sampling.logit_bias
    assert sampling.seed == 1
