"""Logprobs into OpenAI's JSON: the list of chats, and the four lists of completions. Knows no answer and no stream."""

from __future__ import annotations

import codecs
import math

from llamahost.core.events import Echoed, Likely, PromptLogprob, TokenLogprob

Json = dict[str, object]

_FLOOR = -9999.0  # JSON has no infinity; OpenAI says this for "never"


def _number(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _FLOOR


def _chat_likely(likely: Likely | TokenLogprob) -> Json:
    return {
        "token": likely.piece.decode("utf-8", "replace"),
        "logprob": _number(likely.logprob),
        "bytes": list(likely.piece),
    }


def chat_logprobs(tokens: tuple[TokenLogprob, ...]) -> list[Json]:
    return [{**_chat_likely(token), "top_logprobs": [_chat_likely(likely) for likely in token.top]} for token in tokens]


def llama_probs(tokens: tuple[TokenLogprob, ...], *, is_prob: bool) -> list[Json]:
    """As llama-server tells what `n_probs` asks for: with ids, and as probabilities after sampling."""
    top = "top_probs" if is_prob else "top_logprobs"
    return [
        {**_llama_likely(token, is_prob=is_prob), top: [_llama_likely(likely, is_prob=is_prob) for likely in token.top]}
        for token in tokens
    ]


def _llama_likely(likely: Likely | TokenLogprob, *, is_prob: bool) -> Json:
    told = {"id": likely.token, "token": likely.piece.decode("utf-8", "replace"), "bytes": list(likely.piece)}
    if is_prob:
        return {**told, "prob": math.exp(likely.logprob)}
    return {**told, "logprob": _number(likely.logprob)}


def _spelled(piece: bytes) -> str:
    """The legacy form of a token: its text, or its bytes where they are not whole characters."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


class LegacyLogprobs:
    """The four parallel lists of /v1/completions, made as tokens come; `text_offset` counts characters of the text,
    which begins with the prompt where that is echoed.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._n_characters = 0
        self._clear()

    def _clear(self) -> None:
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._tops: list[Json | None] = []
        self._offsets: list[int] = []

    def echo(self, event: Echoed) -> None:
        self._n_characters += len(event.text)
        for token in event.logprobs:
            self._add(token, token.offset)

    def add(self, tokens: tuple[TokenLogprob, ...]) -> None:
        for token in tokens:
            self._add(token, self._n_characters)
            self._n_characters += len(self._decoder.decode(token.piece))

    def take(self) -> Json:
        """What was added since the last time."""
        taken: Json = {
            "tokens": self._tokens,
            "token_logprobs": self._logprobs,
            "top_logprobs": self._tops,
            "text_offset": self._offsets,
        }
        self._clear()
        return taken

    def _add(self, token: TokenLogprob | PromptLogprob, offset: int) -> None:
        """The likeliest and the token itself, so there may be one more than asked for, as OpenAI says."""
        name = _spelled(token.piece)
        self._tokens.append(name)
        self._offsets.append(offset)
        if token.logprob is None:
            self._logprobs.append(None)
            self._tops.append(None)
            return
        logprob = _number(token.logprob)
        top: Json = {_spelled(likely.piece): _number(likely.logprob) for likely in token.top}
        top.setdefault(name, logprob)
        self._logprobs.append(logprob)
        self._tops.append(top)
