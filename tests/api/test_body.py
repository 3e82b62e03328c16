"""Large bodies are read beside the event loop, small ones on it, and both say the same."""

import re
import threading

import pytest

from llamahost.api.body import N_AGAIN, N_SMALL, N_WHOLE, Reading, choices_at, decode_body
from llamahost.api.openai_types import CHAT, COMPLETION, ChatBody
from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import CompletionRequest
from tests.api.fakes import FakeHost, app_of, client_of, run
from tests.on_loop import on_loop


@on_loop
async def test_a_large_body_is_read_in_one_thread_beside_the_loop() -> None:
    reading = Reading()
    here = threading.get_ident()
    assert await reading.run(threading.get_ident, N_SMALL) == here
    others = {await reading.run(threading.get_ident, N_SMALL + 1) for _ in range(3)}
    assert len(others) == 1
    assert others != {here}
    reading.close()


@pytest.mark.parametrize("n", [1, N_SMALL])
def test_a_mistake_is_told_alike_in_small_bodies_and_in_large_ones(n: int) -> None:
    async def law() -> None:
        messages = [{"role": "user", "content": "x" * n}, {"role": "nobody", "content": ""}]
        async with client_of(app_of(FakeHost())) as client:
            answer = await client.post("/v1/chat/completions", json={"messages": messages})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == "messages[1].role"
        roles = "assistant, developer, function, system, tool, user"
        assert error["message"] == f"`messages[1].role` must be one of {roles}, not 'nobody'"

    run(law)


def test_of_a_wrong_value_no_more_is_told_than_a_person_reads() -> None:
    with pytest.raises(InvalidRequest) as told:
        decode_body(b'{"messages": [{"role": "%s"}]}' % (b"r" * 10**6), CHAT)
    assert len(str(told.value)) < 256


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"\xef\xbb\xbf%s", None),
        (b'{"metadata": {"a": "\\ud83d\\ude00 \\uD83D\\uDE00"}, "messages": []}', None),
        (b"\x1f\x8b\x08", "compressed"),
        (b"%s".decode().encode("utf-16"), "UTF-16"),
        (b'{"messages": []}'.decode().encode("utf-16-le"), "UTF-16"),
        (b'{"messages": []}'.decode().encode("utf-16-be"), "UTF-16"),
        (b'{"a": "cut \\ud83d", "messages": []}', "byte 11 stands \\ud83d, half"),
        (b'{"a": "\\ud83d\\ude00\\uDE00", "messages": []}', "byte 19 stands \\uDE00, half"),
        (b'{"a": "\\\\ud83d", "messages": [}', "not valid JSON: JSON is malformed"),
        (
            b'{"a": "' + b"\\ud83d\\ude00" * 9 + b'\\ud83d\\ud83d\\ude00", "messages": []}',
            "byte 115 stands \\ud83d, half",
        ),
        (b'{"a": "' + b"\\ud83d\\ude00" * 9 + b'"]', "not valid JSON: JSON is malformed"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "byte 43 stands \\ud83d, half"),
        (b'["\\ud83d"]', "byte 2 stands \\ud83d, half"),
        (b'{"a": "\\ud83d', "byte 7 stands \\ud83d, half"),
    ],
)
def test_what_comes_in_place_of_json_is_told(body: bytes, told: str | None) -> None:
    body = body.replace(b"%s", b'{"messages": []}')
    if told is None:
        assert decode_body(body, CHAT).messages == []
        return
    with pytest.raises(InvalidRequest, match=re.escape(told)):
        decode_body(body, CHAT)


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        ("messages[7].content[0].type", {"text", "image_url", "input_audio"}),
        ("tool_choice.type", {"function", "allowed_tools"}),
        ("tools[0].function.name", set[str]()),
        ("no.such[0].place", set[str]()),
    ],
)
def test_what_may_stand_at_a_place_is_known_by_the_type_of_the_body(path: str, choices: set[str]) -> None:
    assert set(choices_at(ChatBody, path)) >= choices
    assert bool(choices_at(ChatBody, path)) == bool(choices)


@pytest.mark.parametrize("n", [3, N_SMALL])
def test_a_list_of_tokens_of_any_length_is_one_prompt(n: int) -> None:
    async def law() -> None:
        host = FakeHost()
        async with client_of(app_of(host)) as client:
            answer = await client.post("/v1/completions", json={"prompt": list(range(n))})
            wrong = await client.post("/v1/completions", json={"prompt": [*range(n), 2**31]})
        assert answer.status_code == 200
        assert wrong.json()["error"]["param"] == f"prompt[{n}]"
        (request,) = host.requests
        assert isinstance(request, CompletionRequest)
        assert [tuple(prompt) for prompt in request.prompts] == [tuple(range(n))]

    run(law)


def test_a_whole_number_may_be_written_with_a_point() -> None:
    body = b'{"messages": [], "max_tokens": 10.0, "seed": -0.0, "top_k": 4e1, "n": 9e17, "logit_bias": [[5.0, 1.0]]}'
    told = decode_body(body, CHAT)
    assert (told.max_tokens, told.seed, told.top_k, told.n) == (10, 0, 40, 9 * 10**17)
    assert told.logit_bias == [(5, 1.0)]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        ("10.5", "got `float`"),
        ("1e400", "out of range"),
        ("1e19", "<= 9223372036854775807"),
        ("NaN", "not valid JSON"),
        ('"10"', "got `str`"),
        ("true", "got `bool`"),
        ('10.0, "stop": 3', "`stop`"),
        ('10.0, "seed": 0.5', "`seed`"),
        ('10.0, "max_tokens": 0.5', "`max_tokens`"),
        ('10.0, "top_p": 1e400', "`max_tokens`"),
        ('3, "logit_bias": {}, "logit_bias": [[5.5, 1]]', "`logit_bias[0][0]`"),
    ],
)
def test_what_is_no_whole_number_is_told_by_its_place(number: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(sentence)):
        decode_body(b'{"messages": [], "max_tokens": %s}' % number.encode(), CHAT)


@pytest.mark.parametrize("first", ["3", "10.0", "10.5", '"x"', "null", "[[]]"])
def test_of_a_key_that_stands_twice_the_last_one_counts(first: str) -> None:
    body = '{"max_tokens": %s, "messages": [], "seed": 7.0, "max_tokens": 5}' % first  # noqa: UP031 # braces
    told = decode_body(body.encode(), CHAT)
    assert (told.max_tokens, told.seed) == (5, 7)
    part = b'{"messages": [{"role": "user", "content": [{"type": "image_url", "type": "text", "text": "a"}]}]}'
    assert decode_body(part, CHAT).messages == decode_body(part.replace(b'"type": "image_url", ', b""), CHAT).messages


def test_in_a_long_body_that_is_refused_nobody_looks_for_such_keys() -> None:
    long = b'{"max_tokens": "x", "messages": [], "a": "%s", "max_tokens": 5}' % (b"a" * N_AGAIN)
    with pytest.raises(InvalidRequest, match="`max_tokens`"):
        decode_body(long, CHAT)
    assert decode_body(long.replace(b'"x"', b"4.0"), CHAT).max_tokens == 5, "a whole number may have a point"


def test_numbers_that_are_not_whole_are_looked_for_no_longer_than_a_client_writes_them() -> None:
    with pytest.raises(InvalidRequest, match="got `float`"):
        decode_body(b'{"prompt": [%s]}' % b",".join([b"1.0"] * 2 * N_WHOLE), COMPLETION)
