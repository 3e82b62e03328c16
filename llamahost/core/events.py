"""What is answered, in words: one stream of events that every dialect dresses in its own form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Channel = Literal["text", "reasoning", "tool"]
Reason = Literal["stop", "length", "tool", "cancelled"]


@dataclass(frozen=True, slots=True)
class Likely:
    """A token that might have come at a place. `piece` is its raw bytes; logprob in nats."""

    token: int
    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that came, its log-probability in nats by the raw logits, and the likeliest, best first."""

    token: int
    piece: bytes
    logprob: float
    top: tuple[Likely, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptLogprob:
    """A token of the prompt, and the character of the prompt's text where it begins.

    `logprob` is None for the first one, before which there is nothing that it could be likely after.
    """

    token: int
    piece: bytes
    offset: int
    logprob: float | None
    top: tuple[Likely, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens. [0, n_cached) of the prompt came from a cache; n_reasoning are among n_generated."""

    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    n_reasoning: int = 0

    @property
    def n_total(self) -> int:
        return self.n_prompt + self.n_generated


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: waiting for a slot, computing the prompt, and generating (first token to last)."""

    queued_s: float = 0.0
    prompt_s: float = 0.0
    generation_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Counts and times of an answer so far."""

    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Started:
    """Answer `index` has its first token, or of its prompt the first is told; before it all could become an error.

    `replica` of the model makes it, as the last of `n_tries` that were asked.
    """

    index: int
    model: str
    n_prompt: int
    n_cached: int
    replica: str = ""
    n_tries: int = 1
    is_cut: bool = False  # what was asked about was too long, and may be cut


@dataclass(frozen=True, slots=True)
class Progress:
    """[0, n_processed) of the prompt of answer `index` is there, `elapsed_s` after it was begun; n_cached at once."""

    index: int
    n_prompt: int
    n_cached: int
    n_processed: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Echoed:
    """More of the prompt of answer `index`, before any Delta of it. `text` is empty where only logprobs were wanted."""

    index: int
    text: str
    logprobs: tuple[PromptLogprob, ...] = ()


class Delta(NamedTuple):
    """More of answer `index`. `text` is valid UTF-8 by itself; `n_tokens` is how many tokens it accounts for.

    On the channel `tool` it is a piece of a call's arguments; the first of a call, and it alone, has the id and name.
    A named tuple since there is one for nearly every token, and a frozen dataclass takes three times as long to make.
    """

    index: int  # type: ignore[assignment]  # and not the tuple's method: what would one look for in it?
    text: str
    channel: Channel = "text"
    call_id: str = ""
    call_name: str = ""
    n_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    measured: Measured | None = None  # where it was asked for


@dataclass(frozen=True, slots=True)
class Finished:
    """Answer `index` is complete. `stop` is the stop string that ended it, or empty."""

    index: int
    reason: Reason
    usage: Usage
    timings: Timings = field(default_factory=Timings)
    stop: str = ""


Event = Started | Progress | Echoed | Delta | Finished
