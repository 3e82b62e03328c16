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
"""Of a prompt that is no conversation, by which its beginning is found behind what the vocabulary puts before it."""


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
            begins = self.text.find(words, at, at + most + len(words))
            if begins < 0:
                break
            at, most = begins + len(words), BETWEEN + sum([len(call.arguments) for call in message.tool_calls])
            n, n_chars = n + 1, n_chars + len(words)
            own = own or message.role not in ("system", "developer")
        return (n_chars, replace(request, messages=request.messages[:n])) if own else None

    def _begun_prompt(self, request: CompletionRequest) -> tuple[int, CompletionRequest] | None:
        prompt = request.prompts[0] if request.prompts else ""
        if isinstance(prompt, str):
            head = prompt[:N_HEAD]
            n = _n_common(prompt, self.text[max(0, self.text.find(head, 0, 2 * N_HEAD)) :])
        else:
            n = _n_common(list(prompt), self.tokens.tolist())
        return (n, replace(request, prompts=(prompt[:n],))) if n else None


def restored(kept: Iterable[KeptSlot], pieces: Sequence[bytes]) -> tuple[Restored, ...]:
    """What these slots hold, the last used last. A thousandth of a second for ten thousand tokens: in a thread."""
    return tuple(
        Restored(slot.tokens, b"".join([pieces[token] for token in slot.tokens]).decode("utf-8", "replace"))
        for slot in kept
    )


def _n_common(a: str | Sequence[int], b: str | Sequence[int]) -> int:
    """How long both are the same."""
    return bisect_left(range(1, min(len(a), len(b)) + 1), True, key=lambda n: a[:n] != b[:n])
