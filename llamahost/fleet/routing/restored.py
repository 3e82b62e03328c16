"""Which conversation a kept state is of, told by its words: what was believed of a replica went with its last loading.

A state is known by its tokens, and a choice is made by words, before there are tokens. So its text is looked through
for the request's messages, one behind the other, whatever a template put between them. Believed, not asked: where it is
wrong a request is placed a little worse.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.work import KeptSlot, Tokens

BEFORE = 2**15
"""Characters that may stand before the first message: tools are told there."""

BETWEEN = 256
"""And before each later one: marks, names, dates."""

N_HEAD = 64
"""Of a text, by which it is looked for: what is long is not searched for, but compared where its beginning is found."""

STEP = 4096
"""Characters, or tokens, that are compared at once."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What one slot was given back."""

    tokens: Tokens
    text: str

    def begun(self, request: ChatRequest | CompletionRequest) -> tuple[int, ChatRequest | CompletionRequest] | None:
        """As much of the request as this holds, with its length; None where that is no start of its own."""
        if request.generation.adapters:  # of such nothing is kept
            return None
        if isinstance(request, CompletionRequest):
            return self._begun_prompt(request)
        n, n_chars, own = 0, 0, False
        at, most = 0, BEFORE
        for message in request.messages:
            words = message.text.strip()
            head = words[:N_HEAD]
            begins = self.text.find(head, at, at + most + len(head))
            if begins < 0 or not self.text.startswith(words, begins):
                break
            at, most = begins + len(words), BETWEEN + sum([len(call.arguments) for call in message.tool_calls])
            n, n_chars = n + 1, n_chars + len(words)
            own = own or message.role not in ("system", "developer")
        # No other message than its last may be continued; a chain is the same without.
        return (n_chars, replace(request, messages=request.messages[:n], continued="no")) if own else None

    def _begun_prompt(self, request: CompletionRequest) -> tuple[int, CompletionRequest] | None:
        prompt = request.prompts[0] if request.prompts else ""
        if isinstance(prompt, str):
            begins = self.text.find(prompt[:N_HEAD], 0, 2 * N_HEAD)  # behind what the vocabulary puts before it
            n = _n_common(prompt, self.text[begins:]) if begins >= 0 else 0
        else:
            n = _n_common(list(prompt[:N_HEAD]), self.tokens[:N_HEAD].tolist())
            if n == N_HEAD:
                n = _n_common(list(prompt[: len(self.tokens)]), self.tokens.tolist())
        return (n, replace(request, prompts=(prompt[:n],))) if n else None


def restored(kept: Iterable[KeptSlot], pieces: Sequence[bytes]) -> tuple[Restored, ...]:
    """What these slots hold, the last used last. A thousandth of a second for ten thousand tokens: in a thread."""
    return tuple(
        Restored(slot.tokens, b"".join([pieces[token] for token in slot.tokens]).decode("utf-8", "replace"))
        for slot in kept
    )


def _n_common(a: str | Sequence[int], b: str | Sequence[int]) -> int:
    """How long both are the same."""
    n, most = 0, len(a)
    while n < most and a[n : n + STEP] == b[n : n + STEP]:
        n += STEP
    a, b = a[n : n + STEP], b[n : n + STEP]
    return min(n, most) + bisect_left(range(1, min(len(a), len(b)) + 1), True, key=lambda k: a[:k] != b[:k])
