"""Decoded in pieces is decoded whole: the same values, and the same words for a mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.api.openai_types import CHAT, COMPLETION, ChatBody, CompletionBody, MessageBody, Prompt
from llamahost.api.pieces import InPieces

STAND_IN = '{"role":"user","content":"%s"}'
N = 24  # bytes of a piece here, so that small bodies are cut everywhere
CUT: list[tuple[InPieces[Any], type[msgspec.Struct]]] = [
    (InPieces(ChatBody, "messages", MessageBody, STAND_IN, n_piece=N), ChatBody),
    (InPieces(CompletionBody, "prompt", Prompt, n_piece=N), CompletionBody),
]
WORDS = [
    "a",
    '"',
    "},{",
    '},{"role"',
    '"messages":[{"role":"user"',
    '","',
    "],[",
    "1,2",
    "\\",
    "é",
    "文",
    "😀",
    "\n",
    "\0",
]

texts = st.lists(st.sampled_from(WORDS), max_size=8).map("".join)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=3)
functions = st.fixed_dictionaries({"name": texts, "arguments": texts})
calls = st.lists(st.fixed_dictionaries({"id": texts, "function": functions}), max_size=2)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": texts | parts}, optional={"tool_calls": calls}
)
lists = st.lists(messages, max_size=8) | st.lists(messages.map(lambda m: dict(reversed(m.items()))), max_size=8)
prompts = st.one_of(
    st.lists(st.integers(0, 2**31 - 1), max_size=40),
    st.lists(texts, max_size=12),
    st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=9),
    st.lists(st.integers(-1, 3) | texts | st.none(), max_size=12),
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries({"messages": lists, "prompt": prompts}),
        "messages": lists,
        "prompt": prompts,
        "model": texts,
        "stop": st.lists(texts, max_size=2),
    },
)


def told(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return type(error), str(error)


def same(body: bytes) -> None:
    for decoder, whole in CUT:
        assert told(decoder.decode, body) == told(msgspec.json.Decoder(whole).decode, body)


@given(bodies, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (" , ", " : ")]), st.booleans())
def test_a_body_in_pieces_is_the_body(
    body: dict[str, Any], indent: int | None, separators: tuple[str, str], is_ascii: bool
) -> None:
    same(json.dumps(body, indent=indent, separators=separators, ensure_ascii=is_ascii).encode())


@given(bodies, st.data())
def test_what_is_harmed_is_refused_in_the_same_words(body: dict[str, Any], data: st.DataObject) -> None:
    whole = json.dumps(body).encode()
    at, n = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 3))
    put = data.draw(
        st.sampled_from([b"", b"\xff", b"\\", b'"', b"]", b"}", b",", b"0", b"null", b'"messages":[{"role":'])
    )
    same(whole[:at] + put + whole[at + n :])


MANY = b",".join(b'{"role":"user","content":"%d"}' % k for k in range(20))


@pytest.mark.parametrize(
    "body",
    [
        b'{"metadata":{"messages":[%b]},"messages":[]}' % MANY,
        b'{"messages":[%b],"messages":[{"role":"user","content":"x"}]}' % MANY,
        b'{"messages":[{"role":"user","content":"x"}],"messages":[%b]}' % MANY,
        b'{"\\"messages":[%b],"messages":[%b]}' % (MANY, MANY),
        b'{"messages":[%b],"mess\\u0061ges":[]}' % MANY,
        b'{"messages":[%b,]}' % MANY,
        b'{"messages":[%b' % MANY,
        b'{"messages":[%b]} more' % MANY,
        b'{"messages":[%b], "metadata": %b}' % (MANY, b"[" * 5000 + b"]" * 5000),
        b'{"prompt":[%b]}' % (b"1," * 50 + b"-1"),
        b'{"prompt":[%b"x"]}' % (b"1," * 50),
    ],
)
def test_lists_of_others_and_lists_without_end_are_what_they_were(body: bytes) -> None:
    same(body)


@pytest.mark.parametrize("gap", [b"\x0b", b"\x0c", b"\xa0", b" \x0b "])
def test_what_only_looks_like_white_space_is_refused_between_items_too(gap: bytes) -> None:
    message = b'{"role":"user","content":"hello there, hello there"}'
    for field, items in (("messages", [message] * 6), ("prompt", [b"[1,2]"] * 20), ("prompt", [b'"abc"'] * 20)):
        for before, after in ((b"", gap), (gap, b"")):
            cut = b",".join(items[:-2]) + before + b"," + after + b",".join(items[-2:])
            early = items[0] + b"," + items[1] + before + b"," + after + b",".join(items[2:])
            for body in (cut, early):
                same(b'{"%b":[%b]}' % (field.encode(), body))


def test_long_lists_are_really_cut() -> None:
    """Told by what only pieces leave: their list is joined anew, and holds no stand-in."""
    for decoder, field, item, n in (
        (CHAT, "messages", {"role": "user", "content": '文\\"},{"role"' * 50}, 3000),
        (COMPLETION, "prompt", 31999, 100_000),
        (COMPLETION, "prompt", '文","' * 99, 3000),
    ):
        body = json.dumps({field: [item] * n}).encode()
        assert decoder._in_pieces(body) == decoder.decode(body)
        assert len(getattr(decoder.decode(body), field)) == n
