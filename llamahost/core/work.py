"""What is computed, in tokens: the words between scheduler and backend. Knows no text and no C.

One step is: the scheduler makes a Plan, the backend launches and collects it, the scheduler commits what was sampled.
A slot is a place for one sequence's KV, numbered 0 .. n_slots-1; its number is llama.cpp's sequence id.
What is made in each step is a named tuple: a frozen dataclass takes five times as long to make.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, overload

from llamahost.core.sampling import Sampling

Tokens: TypeAlias = "array[int]"
"""array("i") of token ids; handed over, never changed by whoever receives one."""

NO_TOKENS: Tokens = array("i")
Vector: TypeAlias = "array[float]"
"""array("f"): 32-bit floats."""

Adapters: TypeAlias = tuple[tuple[int, float], ...]
"""LoRA adapters by their ids, ascending, each with its scale, which is not 0. An id is never given twice, so what was
computed under equal adapters is equal.
"""

NO_ADAPTERS: Adapters = ()

Finish = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What a job may generate: `grammar` in llguidance's Lark (rule `start`; %json, regexes, special tokens).

    Without triggers it holds from the first token, and when it is complete the answer ends. With triggers text is free
    until one of them has been generated, by whatever tokens; the grammar is of what follows it. When that is complete,
    text is free until the next trigger if it `repeats`, else the answer ends. So do `starts`, but where the words begin
    with one alone, white space and thoughts aside, and the grammar holds them too. Between an opening and a closing of
    `quiet` (thinking) nothing triggers. With `starts_quiet` the prompt ends inside the first pair of `quiet`: all is
    free up to its closing, and what is said above holds from there.

    `compiled` is what the backend's compiler made of the grammar, for itself alone: a job that carries it begins
    without waiting for any compiler.
    """

    grammar: str
    triggers: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    repeats: bool = False
    quiet: tuple[tuple[str, str], ...] = ()
    starts_quiet: bool = False
    compiled: object = field(default=None, compare=False, repr=False)

    @property
    def is_lazy(self) -> bool:
        """Text is free until something begins the grammar."""
        return bool(self.triggers or self.starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtLimit:
    """How long an answer may think: of what stands between `open` and `close`, `n_max` tokens in all.

    Then `closing` comes, as if it had been chosen, as soon as no character is left half; and nothing opens again. With
    `is_open` the prompt ends within thoughts. Without `recurs` only the answer's beginning can open them.
    """

    n_max: int
    open: str
    close: str
    closing: tuple[int, ...]
    is_open: bool = False
    recurs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One prompt to be continued. `id` is unique in the process; `n_max` bounds the tokens generated.

    With an `n_max` of 0 the prompt is computed, and that is all. With `n_prompt_logprobs` every token of the prompt but
    the first is scored, with so many of the likeliest beside it: then all of the prompt is computed anew. What a job
    `is_aside` leaves in its slot is worth less than anything else: nobody will go on with it.
    """

    id: int
    tokens: Tokens
    n_max: int
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()
    n_logprobs: int | None = None
    n_prompt_logprobs: int | None = None
    is_post_sampling: bool = False
    tells_progress: bool = False
    constraint: Constraint | None = None
    thoughts: ThoughtLimit | None = None
    adapters: Adapters = NO_ADAPTERS
    priority: int = 0
    is_aside: bool = False


Pooling = Literal["none", "mean", "cls", "last", "rank"]
"""How the rows of an input's tokens become one vector; `none` keeps them all, `rank` makes scores of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedJob:
    """Inputs to be turned into vectors, each by itself. `id` is unique in the process; no input is empty."""

    id: int
    inputs: tuple[Tokens, ...]
    priority: int = 0


class PairMarks(NamedTuple):
    """What a model that reads two texts at once has before, between and after them."""

    begin: Tokens = array("i")
    between: Tokens = array("i")
    end: Tokens = array("i")


class Embedded(NamedTuple):
    """A job's vectors in the order of its inputs; or why there are none."""

    job_id: int
    vectors: tuple[Vector, ...] = ()
    error: str = ""


class Span(NamedTuple):
    """Compute `tokens` at positions [start, start + len(tokens)) of `slot`; sample the last `n_rows` of them.

    Rows are asked for in two ways, and no token for both. The last `n_rows` are sampled; all of them but the last are
    then followed by a draft. The first `len(scored)` are scored: row k tells how likely `scored[k]` was, the token that
    is known to come after `tokens[k]`. So `len(scored) + n_rows <= len(tokens)`.
    """

    job_id: int
    slot: int
    start: int
    tokens: Tokens
    n_rows: int
    scored: Tokens = NO_TOKENS


class Streams(Sequence[Span]):
    """Spans of running streams that each bring the token that came last, and ask for its row: as columns.

    A span of them is made when it is asked for. All starts are `n_more` further than `starts` says: what is the same in
    every step is handed over again as it is.
    """

    __slots__ = ("job_ids", "n_more", "slots", "starts", "tokens")

    def __init__(
        self, job_ids: list[int], slots: array[int], starts: array[int], n_more: int, tokens: list[int]
    ) -> None:
        self.job_ids = job_ids
        self.slots = slots
        self.starts = starts
        self.n_more = n_more
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.job_ids)

    @overload
    def __getitem__(self, at: int) -> Span: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Span, ...]: ...
    def __getitem__(self, at: int | slice) -> Span | tuple[Span, ...]:
        if isinstance(at, slice):
            return tuple([self[k] for k in range(*at.indices(len(self)))])
        start, token = self.starts[at] + self.n_more, array("i", (self.tokens[at],))
        return Span(self.job_ids[at], self.slots[at], start, token, 1)


@dataclass(frozen=True, slots=True)
class Save:
    """Take the state of `slot` into host memory, under the job's id, and clear the slot."""

    job_id: int
    slot: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Put the state saved under the job's id into `slot`, which it replaces; the saved copy is dropped."""

    job_id: int
    slot: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Make [0, n) of `target` equal to `source`; whatever `target` held is gone, nothing beyond n remains in it."""

    source: int
    target: int
    n: int


@dataclass(frozen=True, slots=True)
class Truncation:
    """Keep [0, n) of `slot` alone; 0 clears it."""

    slot: int
    n: int


class Plan(NamedTuple):
    """All that a backend does in one step, in this order:

    begins, saves, restores, copies, truncations, then one decode of all spans, then sampling; `ends` come last.

    Laws that a scheduler keeps: spans ascend by slot, one a slot, at most `n_batch` tokens in all, and at most `n_rows`
    rows sampled and scored; no slot is both copied (either side) and saved or restored; no target of a copy is the
    source of another; the source of a copy was computed in an earlier step. `begins` are jobs that start (their
    samplers are made, penalties see the prompt's end); `ends` are jobs that will not come again (their samplers and
    saved states are dropped). All spans are of jobs with these `adapters`.
    """

    spans: Sequence[Span] = ()
    begins: tuple[Job, ...] = ()
    saves: tuple[Save, ...] = ()
    restores: tuple[Restore, ...] = ()
    copies: tuple[Copy, ...] = ()
    truncations: tuple[Truncation, ...] = ()
    ends: tuple[int, ...] = ()
    adapters: Adapters = NO_ADAPTERS

    @property
    def n_tokens(self) -> int:
        spans = self.spans
        return len(spans.job_ids) if type(spans) is Streams else sum([len(span.tokens) for span in spans])

    @property
    def job_ids(self) -> Sequence[int]:
        spans = self.spans
        return spans.job_ids if type(spans) is Streams else [span.job_id for span in spans]


@dataclass(frozen=True, slots=True)
class KeptSlot:
    """What a slot held, in host memory: the tokens, and their KV as the backend writes it."""

    tokens: Tokens
    state: bytes


class RowLogprobs(NamedTuple):
    """Log-softmax of the raw logits of one row: of the sampled token, and the likeliest (id, logprob), best first.

    Of a job with `is_post_sampling`: of what its samplers left to draw from, those alone.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampled(NamedTuple):
    """What came of a span with rows: the tokens accepted, and their logprobs where the job wanted them.

    `scored` is of the span's `scored` tokens, one each; a span that is scored alone has no tokens.

    `forced` are the tokens that the job's constraint lets follow, and no others: they are not computed yet. A job that
    wants no logprobs has them as come; for another they are drafts, each of which the next rows will confirm.
    `is_complete`: after these tokens nothing may follow. With an `error` the job, and it alone, has failed.
    """

    job_id: int
    tokens: tuple[int, ...]
    logprobs: tuple[RowLogprobs, ...] = ()
    scored: tuple[RowLogprobs, ...] = ()
    forced: tuple[int, ...] = ()
    is_complete: bool = False
    error: str = ""


class OneEach(Sequence[Sampled]):
    """What came of spans where that was a token for each of them, and nothing else that a Sampled tells."""

    __slots__ = ("job_ids", "tokens")

    def __init__(self, job_ids: list[int], tokens: list[int]) -> None:
        self.job_ids = job_ids
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.job_ids)

    @overload
    def __getitem__(self, at: int) -> Sampled: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Sampled, ...]: ...
    def __getitem__(self, at: int | slice) -> Sampled | tuple[Sampled, ...]:
        if isinstance(at, slice):
            return tuple([self[k] for k in range(*at.indices(len(self)))])
        return Sampled(self.job_ids[at], (self.tokens[at],))


class Times(NamedTuple):
    """Clock readings in seconds of a job's life; 0.0 where it never got there. `last` is of the last token so far, or
    of the last chunk of the prompt.
    """

    arrived: float = 0.0
    admitted: float = 0.0
    first: float = 0.0
    last: float = 0.0


class Emission(NamedTuple):
    """News of one job for its reader. `finish` comes once, in the last; `error` says why it failed.

    A token that ended the job (one of `end_ids`) is counted in `n_hidden` and is not among `tokens`. `prompt_logprobs`
    are of the prompt's next tokens, beginning with its second; they come before the first of `tokens`, or with it.
    `n_processed` is how much of the prompt is in the slot, in news of that alone.
    """

    job_id: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[RowLogprobs, ...] = ()
    n_cached: int = 0
    n_hidden: int = 0
    finish: Finish | None = None
    error: str = ""
    times: Times = Times()
    prompt_logprobs: tuple[RowLogprobs, ...] = ()
    n_processed: int = 0


class OneMore(NamedTuple):
    """News of many jobs, which nearly all news is: `tokens[k]` came for `job_ids[k]` at `at`, it goes on, and no more.

    Only of jobs that have had an emission with tokens. One of these a step, where emissions are one a job: what a token
    costs is what it costs to make them, and to look through them for garbage while they wait to be read.
    """

    job_ids: list[int]
    tokens: list[int]
    at: float


News: TypeAlias = Emission | OneMore
