"""Cut the gaps of more than a token to what a step may carry. Knows sequences and the budget; changes neither.

law: equal shares of a step's time, the oldest first where there is less than a token for each
law: no more rows than there are: who is scored takes one a token, everybody else one at most
law: what a constraint forces delays streams that have none by no more than StepBudget.unfelt
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


def bursts(
    eager: list[Sequence], budget: StepBudget, *, n_spare: int, n_spare_rows: int, is_watched: bool
) -> tuple[list[Span], list[Sequence]]:
    """Spans of running streams that bring more than a token: what was forced, and drafts; and who finds no room.

    `n_spare` tokens and rows there are beyond one for each. `is_watched`: streams without a constraint run in the same
    step. Those under one then bring a token each, as others do, and few more in all; who is not done asks for no row.
    """
    needs = [sequence.gap - 1 for sequence in eager]
    may = needs
    if is_watched:
        held = [k for k, sequence in enumerate(eager) if sequence.job.constraint is not None]
        may = needs[:]
        for k, n in zip(held, shares([needs[k] for k in held], budget.unfelt), strict=True):
            may[k] = n
    spans: list[Span] = []
    left: list[Sequence] = []
    for sequence, n_wanted, n in zip(eager, needs, may, strict=True):
        job, start = sequence.job, sequence.n_computed
        tokens = sequence.tokens[start:]
        if sequence.drafts:
            tokens.extend(sequence.drafts[: min(n, n_spare, n_spare_rows)])
            n = len(tokens) - 1
            n_rows = len(tokens)
            n_spare_rows -= n
        elif n <= n_spare:
            n_rows = int(n == n_wanted)
        else:
            left.append(sequence)
            continue
        n_spare -= n
        spans.append(Span(job.id, sequence.slot, start, tokens[: n + 1], n_rows))
    return spans, left


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
    return Span(job.id, sequence.slot, start, sequence.tokens[start:end], n_rows, scored)
