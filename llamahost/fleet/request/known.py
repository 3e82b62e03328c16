"""Which tokens a model has: those that a request gives are checked here, since C counts none. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from llamahost.core.backend import Vocabulary
from llamahost.core.errors import InvalidRequest
from llamahost.core.work import Tokens

_STRIDE = 4096
"""Tokens that are checked at once, in a fifth of a millisecond."""


def spelling(vocabulary: Vocabulary, token: int) -> str:
    """How a token is written in a template; empty where there is none."""
    return vocabulary.pieces[token].decode("utf-8", "replace") if 0 <= token < vocabulary.n_tokens else ""


def given_ids(vocabulary: Vocabulary, tokens: Sequence[int]) -> Tokens:
    """A prompt of tokens, as it was given. Raises InvalidRequest."""
    # In C where all is well, since one by one is slow; by strides, since C keeps the GIL for all that it is given.
    found = array("i")
    for start in range(0, len(tokens), _STRIDE):
        stride = tokens[start : start + _STRIDE]
        if not _are_whole(stride) or min(stride) < 0 or max(stride) >= vocabulary.n_tokens:
            check_known(vocabulary, stride, "prompt")
        found += array("i", stride)
    return found


def _are_whole(stride: Sequence[int]) -> bool:
    return (isinstance(stride, array) and stride.typecode == "i") or set(map(type, stride)) == {int}


def check_known(vocabulary: Vocabulary, tokens: Iterable[int], param: str) -> None:
    """Raises InvalidRequest on the first that is no token of this model."""
    n_tokens = vocabulary.n_tokens
    for token in tokens:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < n_tokens:
            raise InvalidRequest(f"token {token} is not in the vocabulary of {n_tokens}", param=param)


def beginning(vocabulary: Vocabulary, param: str) -> Tokens:
    """Of an empty prompt: a model that knows a beginning can begin from nothing. Raises InvalidRequest."""
    if vocabulary.bos < 0:
        raise InvalidRequest("the prompt is empty, and this model has no token to begin with", param=param)
    return array("i", [vocabulary.bos])
