"""Do what a Plan says with llama.cpp. Knows plans, slots and tokens; decides nothing about what runs.

Implements core.backend.Backend. Owned by one worker thread after it is made.

Order within a plan, and why (a split KV's slot copy waits for the next decode): saves and restores touch slots that no
copy of the plan touches; copies that go through host memory come before slot copies; truncations of copied slots cut
what C already counts as theirs; the decode then performs the slot copies first.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np

from llamahost.core.errors import BackendError, BackendLost, LoadFailed, NoRoom
from llamahost.core.work import NO_ADAPTERS, Adapters, Copy, Plan, Sampled, Span
from llamahost.native import state
from llamahost.native.choosing import Choosing
from llamahost.native.context import Context, ContextOptions, check_spans
from llamahost.native.model import Model
from llamahost.native.rows import Row

_STATE_COST = 8  # moving a cell through host memory, in cells moved by a slot copy
_REFUSED = -1  # llama_decode on an invalid batch, before it did anything
_MAX_FAILURES = 3  # decodes that fail in a row before the context is given up


class LlamaBackend:
    """Owned by one worker thread. A context on a model, and what its running jobs choose their tokens by."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        if model.has_encoder:
            raise LoadFailed(f"{model.path.name} ({model.architecture}) has an encoder, which is not supported")
        self.model = model
        self._context = context = Context(model, options)
        self.buffers = context.buffers
        self.n_splits = context.n_splits
        self.has_flash_attention = context.has_flash_attention
        self.n_ctx = options.n_ctx
        self.n_slots = options.n_slots
        self.n_batch = context.n_batch
        self.n_cells = options.cells
        self.n_rows = context.n_rows
        self.is_unified = options.is_unified
        self.overlaps = model.is_on_device
        self._n_vocab = model.vocab.n_tokens
        n_threads = options.n_threads or 1
        self._choosing = Choosing(model, n_ctx=options.n_ctx, n_slots=options.n_slots, n_threads=n_threads)
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
        self._logits: Row = np.zeros((0, self._n_vocab), np.float32)
        self._get_logits = model.library.long.get_logits
        try:
            self.can_truncate = self._probe(options)
            self.can_cut_kept = self.can_truncate and not model.n_swa
        except BackendError as error:
            self.close()
            raise LoadFailed(f"{model.path.name} loads, but its first decode fails: {error}") from error

    def _probe(self, options: ContextOptions) -> bool:
        """Warm up with a small decode, and see whether the memory lets its last token go.

        On a device with a whole micro-batch, and all the rows that a step may ask for: its pools then have about what
        they ever take, before others are let in. Of one row the output's matrix is multiplied as it is; for many it is
        first written out in another type on some cards, which is a GB where the vocabulary is large.
        """
        first = max(self.model.vocab.bos, 0)
        is_on_device = self.model.is_on_device
        n = max(1, min(options.n_ubatch if is_on_device else 2, self.n_batch, self.n_ctx))
        n_rows = min(n, self.n_rows) if is_on_device else 1
        self._launch_spans((Span(-1, 0, 0, array("i", [first]) * n, n_rows),))
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
        self._check_there()
        self._launched = None
        try:
            if plan.spans:
                self._check_spans(plan.spans)  # before anything is done
                if plan.adapters != self._adapters:
                    self._set_adapters(plan.adapters)
            self._prepare(plan)
            if plan.spans:
                self._n_launched_rows = self._launch_spans(plan.spans)
                self._choosing.look(plan.spans)
        except BackendError as error:
            self._end(plan.ends)  # `collect` will not be called
            if self._has_pending_copies:
                # they would be done by some later decode, over whatever its slots hold by then
                raise BackendLost(f"slot copies were left pending: {error}") from error
            raise
        self._launched = plan

    def collect(self) -> Sequence[Sampled]:
        plan, self._launched = self._launched, None
        if plan is None:
            raise BackendError("collect without a launched plan")
        self._check_there()
        try:
            return self._sample(plan.spans) if plan.spans and self._n_launched_rows else self._wait(plan)
        finally:
            self._end(plan.ends)

    def close(self) -> None:
        self._saved.clear()
        self._choosing.close()
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
        pointer = None if self.model.is_forsaken else self._context.pointer
        if pointer is not None and any(known == id_ for known, _ in self._adapters):
            self.model.adapters.unset(pointer)
            self._adapters = NO_ADAPTERS
            self._has_new_adapters = True
        self.model.adapters.free(id_)

    @property
    def n_kept_for_jobs(self) -> int:
        """What is kept of jobs that run or were preempted; for tests and debugging."""
        return self._choosing.n_kept + len(self._saved)

    def take_slot(self, slot: int, n: int, n_most: int) -> bytes:
        self._check_slot(slot)
        context = self._context
        if context.pointer is None or self.model.is_forsaken or self._has_pending_copies or n < 1:
            return b""
        if context.pos_max(slot) + 1 > n and not context.truncate(slot, n):
            return b""
        if state.size_of(context, slot) > n_most:
            return b""
        return bytes(state.take(context, slot))

    def put_slot(self, slot: int, kept: bytes) -> None:
        self._check_slot(slot)
        self._check_there()
        state.put(self._context, slot, bytearray(kept))

    def _check_there(self) -> None:
        if self._context.pointer is None or self.model.is_forsaken:
            raise BackendLost("the backend is closed" if self._context.pointer is None else "its device is out of use")

    # --- before the decode ---

    def _prepare(self, plan: Plan) -> None:
        context = self._context
        for job in plan.begins:
            self._choosing.begin(job)
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
        """Whether to copy cells in place; else through host memory. Raises BackendError where it can be neither.

        Unified: always, it is by reference. Recurrent alone: always, states are shared until written. Split: a slot
        copy moves all n_ctx cells of the slot, and waits for a decode; host memory moves the used ones, twice and in
        small pieces, which was measured at about an eighth of the speed. Of a sliding window C writes to host memory
        the cells alone that the next token would see, whatever the cache holds: that is no beginning of the slot.
        """
        if self.is_unified or self.model.is_recurrent:
            return True
        if self.can_truncate and not self.can_cut_kept:  # whole or not: a later plan may cut what was copied
            if not has_decode:
                raise BackendError(f"slot {copy.source} is copied with a decode alone: it has a sliding window")
            return True
        if not has_decode:
            return False
        n_used = self._context.pos_max(copy.source) + 1
        return n_used * _STATE_COST > self._context.n_ctx_seq

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.n_slots:
            raise BackendError(f"slot {slot} is not one of {self.n_slots}")

    # --- the decode ---

    def _check_spans(self, spans: Sequence[Span]) -> None:
        check_spans(spans, n_batch=self.n_batch, n_slots=self.n_slots, n_ctx=self.n_ctx, n_rows=self.n_rows)

    def _set_adapters(self, adapters: Adapters) -> None:
        pointer = self._context.pointer
        assert pointer is not None, "asked for by whoever launches"
        self.model.adapters.set(pointer, adapters, n_compute_bytes=self.memory().get("compute", 0))
        self._adapters = adapters
        self._has_new_adapters = True

    def _launch_spans(self, spans: Sequence[Span]) -> int:
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

    def _wait(self, plan: Plan) -> Sequence[Sampled]:
        if plan.spans:
            self._context.synchronize()
        return []

    def _rows(self, n: int) -> Row:
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

    def _sample(self, spans: Sequence[Span]) -> Sequence[Sampled]:
        began = perf_counter()
        matrix = self._rows(self._n_launched_rows)
        waited = perf_counter()
        sampled = self._choosing.sample(spans, matrix)
        self.decode_s += waited - began
        self.sampling_s += perf_counter() - waited
        return sampled

    def _end(self, job_ids: tuple[int, ...]) -> None:
        for job_id in job_ids:
            self._choosing.end(job_id)
            self._saved.pop(job_id, None)
