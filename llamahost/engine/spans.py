"""Make a step's spans of those who run: gaps of one token first, then bursts, then equal chunks of the longer ones.

Knows sequences and the budget; changes neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter

from llamahost.core.work import NO_TOKENS, Adapters, Span
from llamahost.engine.budget import StepBudget
from llamahost.engine.chunks import bursts, chunks
from llamahost.engine.sequence import Sequence

_new = tuple.__new__  # a named tuple by its own constructor takes twice as long

MAX_SHORT = 32
"""Tokens that a running stream may bring into a step, its last one and forced ones; more of them come as prompts do."""


def spans_of(
    running: list[Sequence],
    adapters: Adapters,
    budget: StepBudget,
    *,
    n_batch: int,
    n_rows: int,
    max_chunk: int,
    stops: Callable[[], Mapping[Sequence, int]],
) -> tuple[Span, ...]:
    """Of those with these adapters, as far as budget, batch and rows go; `stops` are places to pause at."""
    spans: list[Span] = []
    long: list[Sequence] = []
    eager: list[Sequence] = []
    is_watched = False
    for sequence in running:
        job, start = sequence.job, sequence.n_computed
        if job.adapters != adapters:
            continue
        tokens = sequence.tokens[start:]
        if len(tokens) == 1 and not sequence.drafts:
            is_watched |= job.constraint is None
            spans.append(_new(Span, (job.id, sequence.slot, start, tokens, 1 if job.n_max else 0, NO_TOKENS)))
        elif sequence.drafts or (sequence.n_generated and len(tokens) <= MAX_SHORT):
            eager.append(sequence)
        else:
            long.append(sequence)
    n_tokens = len(spans)
    # What drafts and forced tokens may take and leave a token and a row for everybody.
    n_spare, n_spare_rows = n_batch - len(running), n_rows - len(running)
    if eager:
        more, late = bursts(eager, budget, n_spare=n_spare, n_spare_rows=n_spare_rows, is_watched=is_watched)
        long += late
        n_tokens += sum([len(span.tokens) for span in more])
        n_spare_rows -= sum([span.n_rows - 1 for span in more if span.n_rows])
        spans += more
    if long:
        spans += chunks(
            long,
            budget,
            n_decoding=n_tokens,
            max_chunk=max_chunk,
            n_rows=n_spare_rows + len(long),
            stops=stops(),
        )
    if long or eager:
        spans.sort(key=attrgetter("slot"))
    return tuple(spans)
