"""Whatever JSON a field holds, the request is prepared or refused as the caller's mistake; nothing else is raised."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from llamahost.api.body import decode_body
from llamahost.api.openai_parse import parse_chat, parse_completion
from llamahost.api.openai_types import CHAT, COMPLETION, ChatBody, CompletionBody
from llamahost.core.errors import InvalidRequest
from llamahost.fleet.request.preparer import Preparer
from llamahost.text.template import CHATML, Template
from tests.text.vocabulary import ByteVocabulary

EDGES = st.sampled_from(
    [
        *(0, -1, 1, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400),
        *(0.0, -0.0, 1e-320, 1e308, -1e308, 0.5, float("nan"), float("inf"), float("-inf")),
        *("", "\0", "\ud800", "a", "auto", "none", "text", "kq", "-1", "user", "[]"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | EDGES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "role", "1", "function", "name", "schema"]), inner
        )
    ),
    max_leaves=6,
)
PREPARER = Preparer(model="tiny", n_ctx=64, vocabulary=ByteVocabulary(), template=Template(CHATML))


def names(body: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(body)]


def bodies(body: type[msgspec.Struct], whole: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """What would be right, with up to four fields of anything."""
    return st.dictionaries(st.sampled_from(names(body)), VALUES, max_size=4).map(lambda fields: {**whole, **fields})


@given(bodies(ChatBody, {"messages": [{"role": "user", "content": "Hi"}]}))
def test_any_chat_is_prepared_or_refused(body: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        PREPARER.chat(parse_chat(decode_body(json.dumps(body).encode(), CHAT)))


@given(bodies(CompletionBody, {"prompt": "Hi"}))
def test_any_completion_is_prepared_or_refused(body: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        PREPARER.complete(parse_completion(decode_body(json.dumps(body).encode(), COMPLETION)))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        decode_body(b'{"prompt": "' + noise + b'"}', COMPLETION)
