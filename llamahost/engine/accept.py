"""What a sequence takes of what was sampled for it: one more token, tokens up to its end, what a constraint forces.

Knows one sequence and the length of a slot; knows no other sequence and no clock.
"""

from __future__ import annotations

from typing import NamedTuple

from llamahost.core.work import Finish, RowLogprobs, Sampled, Span
from llamahost.engine.sequence import Sequence


def goes_on(sequence: Sequence, span: Span, answer: Sampled, now: float, *, n_ctx: int) -> bool:
    """Take what nearly every answer is: one more token of a stream. False: it is another, and nothing has changed."""
    _, came, logprobs, scored, forced, is_complete, error = answer
    if logprobs or forced or scored or is_complete or error or len(came) != 1 or len(span.tokens) != 1:
        return False
    job, tokens, n_generated = sequence.job, sequence.tokens, sequence.n_generated + 1
    n = len(tokens)
    if n_generated == 1 or n_generated >= job.n_max or n >= n_ctx or came[0] in job.end_ids:
        return False
    tokens.append(came[0])
    sequence.n_generated, sequence.n_computed, sequence.drafts, sequence.last = n_generated, n, (), now
    return True


class Taken(NamedTuple):
    """What a job is told of one answer; how it ends, if it does. A token that ended it is hidden."""

    finish: Finish | None = None
    tokens: tuple[int, ...] = ()
    logprobs: tuple[RowLogprobs, ...] = ()
    n_hidden: int = 0


NOTHING = Taken()


def take(sequence: Sequence, answer: Sampled, now: float, *, n_ctx: int, can_truncate: bool) -> Taken:
    """Take what was sampled, and what that forces. All but the last of the sampled is computed."""
    job, tokens = sequence.job, sequence.tokens
    n_before = len(tokens)
    sequence.drafts = ()
    finish = append(sequence, answer.tokens, n_ctx=n_ctx)
    sequence.n_computed = len(tokens) - 1
    if finish is None and answer.forced:
        finish = follow(sequence, answer.forced, n_ctx=n_ctx, can_truncate=can_truncate)
    came = answer.tokens if job.n_logprobs is not None else answer.tokens + answer.forced
    if answer.is_complete and len(tokens) - n_before == len(came):  # also where that is all that was asked for
        finish = "stop"
    n_hidden = int(finish == "stop" and tokens[-1] in job.end_ids)
    sequence.last = now
    if not sequence.times.first:
        sequence.times = sequence.times._replace(first=now)
    n_shown = len(tokens) - n_before - n_hidden
    return Taken(finish, came[:n_shown], answer.logprobs[:n_shown], n_hidden)


def append(sequence: Sequence, more: tuple[int, ...], *, n_ctx: int) -> Finish | None:
    """Take tokens as generated, up to one that ends the job; how it ends, if it does."""
    job, tokens = sequence.job, sequence.tokens
    for token in more:
        tokens.append(token)
        sequence.n_generated += 1
        if token in job.end_ids:
            return "stop"
        if sequence.n_generated >= job.n_max or len(tokens) > n_ctx:
            return "length"
    return None


def follow(sequence: Sequence, forced: tuple[int, ...], *, n_ctx: int, can_truncate: bool) -> Finish | None:
    """Take what a constraint forces as come, or as drafts where the job wants the logprobs of it."""
    job = sequence.job
    if job.n_logprobs is None:
        return append(sequence, forced, n_ctx=n_ctx)
    n = min(job.n_max - sequence.n_generated - 1, n_ctx - len(sequence.tokens))
    if not can_truncate:
        # Each of them is right; but after one that ends the job, a row would be too many, and is not let go of.
        n = min(n, len(forced) - 1, next((k for k, token in enumerate(forced) if token in job.end_ids), n))
    sequence.drafts = forced[: max(n, 0)]
    return None
