"""Do what a Plan says with llama.cpp. Knows plans, slots and tokens; decides nothing about what runs.

Implements core.work.Backend. Owned by one worker thread after it is made.

Order within a plan, and why (a split KV's slot copy waits for the next decode): saves and restores touch slots that no
copy of the plan touches; copies that go through host memory come before slot copies; truncations of copied slots cut
what C already counts as theirs; the decode then performs the slot copies first.
"""

from __future__ import annotations

import ctypes
import logging
from array import array
from collections.abc import Mapping
from time import perf_counter

import numpy as np
import numpy.typing as npt

from llamahost.core.errors import BackendError, BackendLost, LoadFailed, NoRoom
from llamahost.core.work import NO_ADAPTERS, Adapters, Copy, Plan, RowLogprobs, Sampled, Span
from llamahost.native import state
from llamahost.native.context import Context, ContextOptions, check_spans, kv_bytes_per_token
from llamahost.native.holding import Holding
from llamahost.native.model import Model
from llamahost.native.rows import Chooser, row_logprobs, scores
from llamahost.native.sampling import SamplerChain, Samplers

logger = logging.getLogger("llamahost.native")

_STATE_COST = 8  # moving a cell through host memory, in cells moved by a slot copy
_REFUSED = -1  # llama_decode on an invalid batch, before it did anything
_MAX_FAILURES = 3  # decodes that fail in a row before the context is given up


class LlamaBackend:
    """Owned by one worker thread. A context on a model, with a sampler chain for each running job."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        if model.has_encoder:
            raise LoadFailed(f"{model.path.name} ({model.architecture}) has an encoder, which is not supported")
        self.model = model
        self._context = context = Context(model, options)
        self.buffers = context.buffers
        self.n_ctx = options.n_ctx
        self.n_slots = options.n_slots
        self.n_batch = context.n_batch
        self.n_cells = options.cells
        self.n_rows = context.n_rows
        self.is_unified = options.is_unified
        self.overlaps = model.library.has_gpu
        self.bytes_per_token = kv_bytes_per_token(model, options.kv_type_k, options.kv_type_v)
        self._n_vocab = model.vocab.n_tokens
        self._samplers = Samplers(model.library, model.vocab, n_ctx=options.n_ctx)
        self._chooser = Chooser(model.library, n_vocab=self._n_vocab, n_threads=options.n_threads or 1)
        n_threads = options.n_threads or 1
        self._holding = Holding(model.grammars, n_rows=options.n_slots, n_threads=n_threads)
        self._chains: dict[int, SamplerChain] = {}
        self._n_logprobs: dict[int, int] = {}
        self._n_prompt_logprobs: dict[int, int] = {}
        self._post_sampling: set[int] = set()  # jobs whose logprobs are of what their samplers left
        self._saved: dict[int, bytearray] = {}
        self._adapters: Adapters = NO_ADAPTERS  # as the context has them
        self._has_new_adapters = False  # the next decode makes its graphs anew
        self._launched: Plan | None = None
        self._n_launched_rows = 0
        self._n_failures = 0
        self.decode_s = 0.0  # seconds in C's decode and in waiting for its rows, of all steps
        self.sampling_s = 0.0
        self._has_pending_copies = False
        self._logits_at = 0
        self._logits: npt.NDArray[np.float32] = np.zeros((0, self._n_vocab), np.float32)
        self._get_logits = model.library.long.get_logits
        try:
            self.can_truncate = self._probe(options)
        except BackendError as error:
            self.close()
            raise LoadFailed(f"{model.path.name} loads, but its first decode fails: {error}") from error

    def _probe(self, options: ContextOptions) -> bool:
        """Warm up with a small decode, and see whether the memory lets its last token go.

        On a device with a whole micro-batch: its pools then have what they ever take, before others are let in.
        """
        first = max(self.model.vocab.bos, 0)
        n = max(1, min(options.n_ubatch if self.model.is_on_device else 2, self.n_batch, self.n_ctx))
        self._launch_spans((Span(-1, 0, 0, array("i", [first]) * n, 1),))
        self._context.synchronize()
        can_cut = self._context.truncate(0, max(1, n - 1))
        self._context.clear()
        # A sliding window says yes to seq_rm, and the next logits are wrong where cells have left the window: with
        # swa_full=False they are gone. In a unified KV they are no safer with it: C's search for a free cell takes any
        # that its one sequence does not see any more, as soon as it meets one, even where empty ones come later.
        has_window = self.model.n_swa > 0 and (options.is_unified or not options.swa_full)
        return can_cut and not has_window

    # --- the protocol ---

    def launch(self, plan: Plan) -> None:
        if self._context.pointer is None:
            raise BackendLost("the backend is closed")
        self._launched = None
        try:
            if plan.spans:
                self._check_spans(plan.spans)  # before anything is done
                if plan.adapters != self._adapters:
                    self._set_adapters(plan.adapters)
            self._prepare(plan)
            if plan.spans:
                self._n_launched_rows = self._launch_spans(plan.spans)
                if self._holding:  # while the device decodes, where it does that by itself
                    self._holding.look([span.job_id for span in plan.spans if span.n_rows])
        except BackendError as error:
            self._end(plan.ends)  # `collect` will not be called
            if self._has_pending_copies:
                # they would be done by some later decode, over whatever its slots hold by then
                raise BackendLost(f"slot copies were left pending: {error}") from error
            raise
        self._launched = plan

    def collect(self) -> list[Sampled]:
        plan, self._launched = self._launched, None
        if plan is None:
            raise BackendError("collect without a launched plan")
        try:
            return self._sample(plan.spans) if plan.spans and self._n_launched_rows else self._wait(plan)
        finally:
            self._end(plan.ends)

    def close(self) -> None:
        for chain in self._chains.values():
            chain.close()
        self._chains.clear()
        self._saved.clear()
        self._holding.close()
        self._samplers.close()
        self._chooser.close()
        self._logits = np.zeros((0, self._n_vocab), np.float32)
        self._context.close()

    # --- beyond the protocol ---

    def memory(self) -> Mapping[str, int]:
        """Bytes of llama.cpp's buffers: model, kv, rs (recurrent state), compute, output; those that it told."""
        found = {"model": sum(self.model.weights.values())}
        for (_, what), n_bytes in self.buffers.items():
            found[what] = found.get(what, 0) + n_bytes
        return found

    def free_adapter(self, id_: int) -> None:
        """Let go of an adapter that no job has; between two steps. Idempotent."""
        if self._context.pointer is not None and any(known == id_ for known, _ in self._adapters):
            self.model.adapters.unset(self._context.pointer)
            self._adapters = NO_ADAPTERS
            self._has_new_adapters = True
        self.model.adapters.free(id_)

    def check(self, slots: Mapping[int, int]) -> None:
        """Assert that each slot holds exactly that many positions; for tests and debugging."""
        for slot, n in slots.items():
            self._check_slot(slot)
            held = self._context.pos_max(slot) + 1
            if held != n:
                raise AssertionError(f"slot {slot} holds {held} positions, {n} were expected")

    def row(self, index: int) -> npt.NDArray[np.float32]:
        """A copy of row `index` of the last decode; for tests and debugging."""
        if not 0 <= index < self._n_launched_rows:
            raise BackendError(f"row {index} of {self._n_launched_rows}")
        return np.array(self._rows(self._n_launched_rows)[index])

    def take_slot(self, slot: int, n: int, n_most: int) -> bytes:
        self._check_slot(slot)
        context = self._context
        if context.pointer is None or self._has_pending_copies or n < 1:
            return b""
        if context.pos_max(slot) + 1 > n and not context.truncate(slot, n):
            return b""
        if state.size_of(context, slot) > n_most:
            return b""
        return bytes(state.take(context, slot))

    def put_slot(self, slot: int, kept: bytes) -> None:
        self._check_slot(slot)
        state.put(self._context, slot, bytearray(kept))

    # --- before the decode ---

    def _prepare(self, plan: Plan) -> None:
        context = self._context
        for job in plan.begins:
            if job.kind == "generate":
                self._drop_chain(job.id)
                self._chains[job.id] = self._samplers.chain(job.sampling, job.tokens)
                self._holding.begin(job)
                if job.n_logprobs is not None:
                    self._n_logprobs[job.id] = job.n_logprobs
                    if job.is_post_sampling:
                        self._post_sampling.add(job.id)
                if job.n_prompt_logprobs is not None:
                    self._n_prompt_logprobs[job.id] = job.n_prompt_logprobs
        for save in plan.saves:
            self._check_slot(save.slot)
            self._saved[save.job_id] = state.take(context, save.slot)
            context.truncate(save.slot, 0)
        for restore in plan.restores:
            self._check_slot(restore.slot)
            saved = self._saved.pop(restore.job_id, None)
            if saved is None:
                raise BackendError(f"nothing is saved of job {restore.job_id}")
            state.put(context, restore.slot, saved)
        if plan.copies:
            self._copy(plan)
        for cut in plan.truncations:
            self._check_slot(cut.slot)
            if not self._can_hold(cut.slot, cut.n) or not context.truncate(cut.slot, cut.n):
                raise BackendError(f"slot {cut.slot} cannot be cut to {cut.n} positions")

    def _copy(self, plan: Plan) -> None:
        for copy in plan.copies:
            self._check_slot(copy.source)
            self._check_slot(copy.target)
            if copy.source == copy.target or copy.n < 0:
                raise BackendError(f"slot {copy.source} cannot be copied to slot {copy.target}")
            if not self._can_hold(copy.source, copy.n):
                raise BackendError(f"slot {copy.source} can only be copied whole, not its first {copy.n} positions")
        by_slot: list[Copy] = []
        for copy in plan.copies:
            if self._copies_whole_slots(copy, has_decode=bool(plan.spans)):
                by_slot.append(copy)
            else:
                state.put(self._context, copy.target, state.take(self._context, copy.source))
                self._cut_copy(copy)
        for copy in by_slot:
            self._context.truncate(copy.target, 0)
            self._context.copy(copy.source, copy.target, copy.n)
            self._has_pending_copies = not self.is_unified and not self.model.is_recurrent
            self._cut_copy(copy)

    def _cut_copy(self, copy: Copy) -> None:
        if self._context.pos_max(copy.target) + 1 > copy.n and not self._context.truncate(copy.target, copy.n):
            self._context.truncate(copy.target, 0)
            raise BackendError(f"slot {copy.source} cannot be copied to its first {copy.n} positions")

    def _can_hold(self, slot: int, n: int) -> bool:
        """Whether the slot can become its first n positions. C does not always tell: with a small sliding window it
        says yes and is wrong, and a hybrid copies a part of its attention with the whole of its recurrent state.
        """
        return self.can_truncate or n == 0 or n > self._context.pos_max(slot)

    def _copies_whole_slots(self, copy: Copy, *, has_decode: bool) -> bool:
        """Whether to copy cells in place; else through host memory.

        Unified: always, it is by reference. Recurrent alone: always, states are shared until written. Split: a slot
        copy moves all n_ctx cells of the slot, and waits for a decode; host memory moves the used ones, twice and in
        small pieces, which was measured at about an eighth of the speed.
        """
        if self.is_unified or self.model.is_recurrent:
            return True
        if not has_decode:
            return False
        n_used = self._context.pos_max(copy.source) + 1
        return n_used * _STATE_COST > self._context.n_ctx_seq

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.n_slots:
            raise BackendError(f"slot {slot} is not one of {self.n_slots}")

    # --- the decode ---

    def _check_spans(self, spans: tuple[Span, ...]) -> None:
        check_spans(spans, n_batch=self.n_batch, n_slots=self.n_slots, n_ctx=self.n_ctx, n_rows=self.n_rows)

    def _set_adapters(self, adapters: Adapters) -> None:
        pointer = self._context.pointer
        assert pointer is not None, "asked for by whoever launches"
        self.model.adapters.set(pointer, adapters, n_compute_bytes=self.memory().get("compute", 0))
        self._adapters = adapters
        self._has_new_adapters = True

    def _launch_spans(self, spans: tuple[Span, ...]) -> int:
        """Decode spans that were checked; how many rows of logits they ask for."""
        n_rows = self._context.batch.fill(spans)
        began = perf_counter()
        returned = self._decode_anew() if self._has_new_adapters else self._context.decode()
        self.decode_s += perf_counter() - began
        if returned == _REFUSED:
            raise BackendError("llama_decode refused the batch: a token, a slot or a gap in positions")
        self._has_pending_copies = False  # every other return comes after they were done
        if returned == 0:
            self._n_failures = 0
            return n_rows
        if returned == 1:
            raise NoRoom("no KV cells are free for this plan")
        self._n_failures += 1
        if self._n_failures >= _MAX_FAILURES:
            raise BackendLost(f"{self._n_failures} decodes failed in a row, the last with {returned}")
        raise BackendError(f"llama_decode returned {returned}")

    def _decode_anew(self) -> int:
        """With other adapters than before: C walks its list of them, which must not change meanwhile."""
        with self.model.adapters.changing:
            returned = self._context.decode()
        self._has_new_adapters = returned == _REFUSED
        return returned

    # --- after the decode ---

    def _wait(self, plan: Plan) -> list[Sampled]:
        if plan.spans:
            self._context.synchronize()
        return []

    def _rows(self, n: int) -> npt.NDArray[np.float32]:
        """The logits of the last decode, once computed; in the order of the batch, since this call sorts them."""
        at = self._get_logits(self._context.pointer)
        if not at:
            raise BackendLost("the context has no logits")
        if at != self._logits_at or len(self._logits) < n:
            n_kept = max(n, self.n_slots)
            flat = (ctypes.c_float * (n_kept * self._n_vocab)).from_address(at)
            self._logits = np.ctypeslib.as_array(flat).reshape(n_kept, self._n_vocab)
            self._logits_at = at
        return self._logits[:n]

    def _sample(self, spans: tuple[Span, ...]) -> list[Sampled]:
        n_rows = self._n_launched_rows
        began = perf_counter()
        matrix = self._rows(n_rows)
        self.decode_s += perf_counter() - began
        if not any(span.scored for span in spans):
            return self._choose([span for span in spans if span.n_rows], matrix)
        return self._score_and_choose([span for span in spans if span.n_rows or span.scored], matrix)

    def _score_and_choose(self, asking: list[Span], matrix: npt.NDArray[np.float32]) -> list[Sampled]:
        """A span's scored rows come before its sampled ones, which are put together as if there were no others."""
        scored: list[tuple[RowLogprobs, ...]] = []
        places: list[int] = []
        at = 0
        for span in asking:
            end = at + len(span.scored)
            n_likely = self._n_prompt_logprobs.get(span.job_id)
            if n_likely is None and span.scored:
                raise BackendError(f"job {span.job_id} has scores and never asked for them")
            scored.append(scores(matrix[at:end], span.scored, n_likely or 0))
            at = end + span.n_rows
            places += range(end, at)
        chosen = iter(self._choose([span for span in asking if span.n_rows], matrix[places]))
        answers = [next(chosen) if span.n_rows else Sampled(span.job_id, ()) for span in asking]
        return [answer._replace(scored=of_span) for answer, of_span in zip(answers, scored, strict=True)]

    def _choose(self, asking: list[Span], matrix: npt.NDArray[np.float32]) -> list[Sampled]:
        """One token for each span, of the matrix' rows in their order; where a span has drafts, those accepted."""
        try:
            chains = [self._chains[span.job_id] for span in asking]
        except KeyError as error:
            raise BackendError(f"job {error} has rows and never began") from error
        if len(matrix) != len(asking) or not self._post_sampling.isdisjoint([span.job_id for span in asking]):
            return self._choose_bursts(asking, chains, matrix)
        began = perf_counter()
        if self._holding:
            return self._sample_held(asking, chains, matrix)
        tokens = self._chooser.choose_all(chains, matrix)
        for chain, token in zip(chains, tokens, strict=True):
            if chain.window:
                chain.accept(token)
        self.sampling_s += perf_counter() - began
        if not self._n_logprobs:
            return [Sampled(span.job_id, (token,)) for span, token in zip(asking, tokens, strict=True)]
        return [
            Sampled(span.job_id, (token,), self._logprobs_of(span.job_id, matrix[i], token))
            for i, (span, token) in enumerate(zip(asking, tokens, strict=True))
        ]

    def _sample_held(
        self, asking: list[Span], chains: list[SamplerChain], matrix: npt.NDArray[np.float32]
    ) -> list[Sampled]:
        """Rows of which some are held to a grammar: a token is chosen where it is not known already."""
        began = perf_counter()
        holding = self._holding
        ids = [span.job_id for span in asking]
        chosen = [i for i, id_ in enumerate(ids) if holding.is_chosen(id_)]
        is_all = len(chosen) == len(ids)
        found = self._chooser.choose_all(
            chains if is_all else [chains[i] for i in chosen],
            matrix if is_all else matrix[chosen],
            [holding.mask(ids[i]) for i in chosen],
        )
        tokens = dict(zip(chosen, found, strict=True))
        result = []
        for i, id_ in enumerate(ids):
            if id_ in holding:
                result.append(self._followed(id_, tokens.get(i, -1), chains[i], matrix[i]))
            else:
                chains[i].accept(tokens[i])
                result.append(Sampled(id_, (tokens[i],), self._logprobs_of(id_, matrix[i], tokens[i])))
        self.sampling_s += perf_counter() - began
        return result

    def _followed(self, job_id: int, token: int, chain: SamplerChain, row: npt.NDArray[np.float32]) -> Sampled:
        token, forced, is_complete, error = self._holding.follow(job_id, token, self._chooser, chain, row)
        if error:
            return Sampled(job_id, (), error=error)
        logprobs = self._logprobs_of(job_id, row, token)
        return Sampled(job_id, (token,), logprobs, forced=forced, is_complete=is_complete)

    def _choose_bursts(
        self, asking: list[Span], chains: list[SamplerChain], matrix: npt.NDArray[np.float32]
    ) -> list[Sampled]:
        """Row by row; each row's token is accepted as long as it is the one that the span drafted."""
        result = []
        at = 0
        for span, chain in zip(asking, chains, strict=True):
            tokens: list[int] = []
            logprobs: tuple[RowLogprobs, ...] = ()
            drafts = span.tokens[len(span.tokens) - span.n_rows + 1 :]
            last = Sampled(span.job_id, ())
            for index in range(span.n_rows):
                row = matrix[at + index]
                if span.job_id in self._holding:
                    last = self._burst_row(span.job_id, chain, row, is_first=index == 0)
                    if last.error:
                        break
                    token = last.tokens[0]
                    logprobs += last.logprobs
                elif span.job_id in self._post_sampling:
                    token, told = self._chooser.choose_and_tell(chain, row, self._n_logprobs[span.job_id])
                    chain.accept(token)
                    logprobs += (told,)
                else:
                    token = self._chooser.choose(chain, row)
                    chain.accept(token)
                    logprobs += self._logprobs_of(span.job_id, row, token)
                tokens.append(token)
                if last.is_complete or (index < len(drafts) and drafts[index] != token):
                    break
            at += span.n_rows
            result.append(Sampled(span.job_id, tuple(tokens), logprobs, (), last.forced, last.is_complete, last.error))
        return result

    def _burst_row(self, job_id: int, chain: SamplerChain, row: npt.NDArray[np.float32], *, is_first: bool) -> Sampled:
        if not is_first:  # the mask of the first was looked up while the rows were computed
            self._holding.look_at_one(job_id)
        token = -1
        if self._holding.is_chosen(job_id):
            token = self._chooser.choose(chain, row, 0, self._holding.mask(job_id))
        return self._followed(job_id, token, chain, row)

    def _logprobs_of(self, job_id: int, row: npt.NDArray[np.float32], token: int) -> tuple[RowLogprobs, ...]:
        n = self._n_logprobs.get(job_id)
        return () if n is None else (row_logprobs(row, token, n),)

    def _end(self, job_ids: tuple[int, ...]) -> None:
        for job_id in job_ids:
            self._drop_chain(job_id)
            self._saved.pop(job_id, None)
            self._holding.end(job_id)

    def _drop_chain(self, job_id: int) -> None:
        chain = self._chains.pop(job_id, None)
        if chain is not None:
            chain.close()
        self._n_logprobs.pop(job_id, None)
        self._n_prompt_logprobs.pop(job_id, None)
        self._post_sampling.discard(job_id)
