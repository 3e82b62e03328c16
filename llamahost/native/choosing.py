"""What each running job chooses its tokens by, and what it is told of them: samplers, a grammar, logprobs.

Knows jobs, spans and rows of logits; knows no context, no KV and no plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llamahost.core.errors import BackendError
from llamahost.core.work import Job, OneEach, RowLogprobs, Sampled, Span, Streams
from llamahost.native.holding import Holding
from llamahost.native.model import Model
from llamahost.native.rows import Chooser, Row, row_logprobs, scores
from llamahost.native.sampling import SamplerChain, Samplers


class _Running(NamedTuple):
    """What a job chooses by and wants to be told, from its beginning to its end."""

    chain: SamplerChain
    n_logprobs: int | None
    n_prompt_logprobs: int | None
    is_post_sampling: bool  # its logprobs are of what its samplers left

    def logprobs(self, row: Row, token: int) -> tuple[RowLogprobs, ...]:
        return () if self.n_logprobs is None else (row_logprobs(row, token, self.n_logprobs),)


class Choosing:
    """Owned by the worker thread."""

    def __init__(self, model: Model, *, n_ctx: int, n_slots: int, n_threads: int) -> None:
        self._samplers = Samplers(model.library, model.vocab, n_ctx=n_ctx)
        self._chooser = Chooser(model.library, n_vocab=model.vocab.n_tokens, n_threads=n_threads)
        self._holding = Holding(model.grammars, n_rows=n_slots, n_threads=n_threads)
        self._running: dict[int, _Running] = {}

    @property
    def n_kept(self) -> int:
        """Samplers and grammars of jobs that have not ended."""
        return len(self._running) + len(self._holding)

    def begin(self, job: Job) -> None:
        self.end(job.id)
        chain = self._samplers.chain(job.sampling, job.tokens, is_held=job.constraint is not None)
        is_post_sampling = job.is_post_sampling and job.n_logprobs is not None
        self._running[job.id] = _Running(chain, job.n_logprobs, job.n_prompt_logprobs, is_post_sampling)
        self._holding.begin(job)

    def end(self, job_id: int) -> None:
        """Idempotent, and strangers are no matter."""
        running = self._running.pop(job_id, None)
        if running is not None:
            running.chain.close()
        self._holding.end(job_id)

    def close(self) -> None:
        """Idempotent."""
        for running in self._running.values():
            running.chain.close()
        self._running.clear()
        self._holding.close()
        self._samplers.close()
        self._chooser.close()

    def look(self, spans: Sequence[Span]) -> None:
        """Look up what the next rows of these may be: while the device decodes, where it does that by itself."""
        if self._holding:
            known = spans.job_ids if type(spans) is Streams else [span.job_id for span in spans if span.n_rows]
            self._holding.look(known)

    def sample(self, spans: Sequence[Span], matrix: Row) -> Sequence[Sampled]:
        """What came of the spans that have rows, which are the matrix' rows in their order."""
        if type(spans) is Streams:
            return self._choose(spans, spans.job_ids, matrix)
        if not any(span.scored for span in spans):
            asking = [span for span in spans if span.n_rows]
            return self._choose(asking, [span.job_id for span in asking], matrix)
        return self._score_and_choose([span for span in spans if span.n_rows or span.scored], matrix)

    def _score_and_choose(self, asking: list[Span], matrix: Row) -> list[Sampled]:
        """A span's scored rows come before its sampled ones, which are put together as if there were no others."""
        scored: list[tuple[RowLogprobs, ...]] = []
        places: list[int] = []
        at = 0
        for span in asking:
            end = at + len(span.scored)
            running = self._running.get(span.job_id)
            n_likely = running.n_prompt_logprobs if running is not None else None
            if n_likely is None and span.scored:
                raise BackendError(f"job {span.job_id} has scores and never asked for them")
            scored.append(scores(matrix[at:end], span.scored, n_likely or 0))
            at = end + span.n_rows
            places += range(end, at)
        choosing = [span for span in asking if span.n_rows]
        chosen = iter(self._choose(choosing, [span.job_id for span in choosing], matrix[places]))
        answers = [next(chosen) if span.n_rows else Sampled(span.job_id, ()) for span in asking]
        return [answer._replace(scored=of_span) for answer, of_span in zip(answers, scored, strict=True)]

    def _choose(self, asking: Sequence[Span], job_ids: list[int], matrix: Row) -> Sequence[Sampled]:
        """One token for each span, of these jobs; where a span has drafts, those accepted."""
        try:
            running = [self._running[job_id] for job_id in job_ids]
        except KeyError as error:
            raise BackendError(f"job {error} has rows and never began") from error
        if len(matrix) != len(asking) or any(each.is_post_sampling for each in running):
            return self._choose_bursts(asking, running, matrix)
        if self._holding:
            return self._choose_held(job_ids, running, matrix)
        tokens = self._chooser.choose_all([each.chain for each in running], matrix)
        for each, token in zip(running, tokens, strict=True):
            if each.chain.window:
                each.chain.accept(token)
        if all(each.n_logprobs is None for each in running):
            return OneEach(job_ids, tokens)
        return [
            Sampled(job_id, (token,), each.logprobs(row, token))
            for job_id, each, token, row in zip(job_ids, running, tokens, matrix, strict=True)
        ]

    def _choose_held(self, job_ids: list[int], running: list[_Running], matrix: Row) -> list[Sampled]:
        """Rows of which some are held to a grammar: a token is chosen where it is not known already."""
        holding = self._holding
        chosen = [i for i, id_ in enumerate(job_ids) if holding.is_chosen(id_)]
        found = self._chooser.choose_all(
            [running[i].chain for i in chosen],
            matrix if len(chosen) == len(job_ids) else matrix[chosen],
            [holding.mask(job_ids[i]) for i in chosen],
        )
        tokens = dict(zip(chosen, found, strict=True))
        sampled = []
        for i, (id_, each) in enumerate(zip(job_ids, running, strict=True)):
            if id_ in holding:
                sampled.append(self._follow(id_, tokens.get(i, -1), each, matrix[i]))
            else:
                each.chain.accept(tokens[i])
                sampled.append(Sampled(id_, (tokens[i],), each.logprobs(matrix[i], tokens[i])))
        return sampled

    def _choose_bursts(self, asking: Sequence[Span], running: list[_Running], matrix: Row) -> list[Sampled]:
        """Row by row."""
        sampled = []
        at = 0
        for span, each in zip(asking, running, strict=True):
            sampled.append(self._burst(span, each, matrix[at : at + span.n_rows]))
            at += span.n_rows
        return sampled

    def _burst(self, span: Span, running: _Running, rows: Row) -> Sampled:
        """Each row's token is accepted as long as it is the one that the span drafted."""
        drafts = span.tokens[len(span.tokens) - span.n_rows + 1 :]
        tokens: list[int] = []
        logprobs: list[RowLogprobs] = []
        last = Sampled(span.job_id, ())
        for index, row in enumerate(rows):
            last = self._choose_one(span.job_id, running, row, is_first=index == 0)
            if last.error:
                break
            tokens += last.tokens
            logprobs += last.logprobs
            if last.is_complete or (index < len(drafts) and drafts[index] != tokens[-1]):
                break
        return last._replace(tokens=tuple(tokens), logprobs=tuple(logprobs))

    def _choose_one(self, job_id: int, running: _Running, row: Row, *, is_first: bool) -> Sampled:
        chooser, chain = self._chooser, running.chain
        if job_id in self._holding:
            if not is_first:  # the mask of the first was looked up while the rows were computed
                self._holding.look_at_one(job_id)
            token = -1
            if self._holding.is_chosen(job_id):
                token = chooser.choose(chain, row, 0, self._holding.mask(job_id))
            return self._follow(job_id, token, running, row)
        if running.is_post_sampling:
            token, told = chooser.choose_and_tell(chain, row, running.n_logprobs or 0)
            chain.accept(token)
            return Sampled(job_id, (token,), (told,))
        token = chooser.choose(chain, row)
        chain.accept(token)
        return Sampled(job_id, (token,), running.logprobs(row, token))

    def _follow(self, job_id: int, token: int, running: _Running, row: Row) -> Sampled:
        token, forced, is_complete, error = self._holding.follow(job_id, token, self._chooser, running.chain, row)
        if error:
            return Sampled(job_id, (), error=error)
        return Sampled(job_id, (token,), running.logprobs(row, token), forced=forced, is_complete=is_complete)
