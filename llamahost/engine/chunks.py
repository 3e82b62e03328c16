"""Cut the long gaps to what a step may carry. Knows sequences and the budget; changes neither.

law: equal shares of a step's time, the oldest first where there is less than a token for each
law: no more rows than there are: who is scored takes one a token, everybody else one at most
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from llamahost.core.work import NO_TOKENS, Span
from llamahost.engine.budget import StepBudget, shares
from llamahost.engine.sequence import Sequence


def chunks(
    long: list[Sequence],
    budget: StepBudget,
    *,
    n_decoding: int,
    max_chunk: int,
    n_rows: int,
    stops: Mapping[Sequence, int],
) -> list[Span]:
    """Spans of those who have more than a token to compute, in a step that also carries `n_decoding` tokens.

    `n_rows` is what the decoding tokens leave, at least one for each; `stops` are places to pause at.
    """
    long.sort(key=attrgetter("order"))
    n_chunk = min(budget.chunk(n_decoding), max_chunk)
    needs = [min(len(s.tokens), stops.get(s, len(s.tokens))) - s.n_computed for s in long]
    given = shares(needs, n_chunk)
    if any(sequence.is_scored for sequence in long):
        _limit_scored(long, given, n_scored=budget.scored(n_decoding), n_chunk=n_chunk, n_rows=n_rows)
    return [_span(sequence, n) for sequence, n in zip(long, given, strict=True) if n]


def _limit_scored(long: list[Sequence], given: list[int], *, n_scored: int, n_chunk: int, n_rows: int) -> None:
    """Equal shares were given in tokens: those that are scored get the same time instead, and rows that there are.

    `n_scored` tokens take as long as `n_chunk` that are not scored.
    """
    scored = [k for k, sequence in enumerate(long) if sequence.is_scored]
    affordable = [min(given[k], max(1, given[k] * n_scored // n_chunk)) for k in scored]
    n_others = len(long) - len(scored)
    for k, n in zip(scored, shares(affordable, n_rows - n_others), strict=True):
        given[k] = n


def _span(sequence: Sequence, n: int) -> Span:
    job, start = sequence.job, sequence.n_computed
    end = start + n
    n_rows = int(end == len(sequence.tokens) and job.n_max > 0)
    scored = job.tokens[start + 1 : end + 1] if sequence.is_scored else NO_TOKENS
    return Span(job.id, sequence.slot, start, sequence.tokens[start:end], n_rows, None, scored)
