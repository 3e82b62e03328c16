"""Drive a LlamaBackend by hand: one sequence after the other, without a scheduler."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llamahost.core.sampling import Sampling
from llamahost.core.work import Copy, Job, Plan, Restore, Sampled, Save, Span, Truncation
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions
from llamahost.native.model import Model

GREEDY = Sampling(temperature=0.0)
Row = npt.NDArray[np.float32]


class Driver:
    """A model, a backend and job ids; a context manager that frees them."""

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int = 256,
        n_slots: int = 4,
        is_unified: bool = False,
        n_cells: int | None = None,
        n_batch: int = 128,
        swa_full: bool = True,
        n_rows: int | None = None,
        model: Model | None = None,
    ) -> None:
        """`model` is the file, opened by somebody who closes it."""
        self._owns_model = model is None
        self.model = model or Model.open(path)
        options = ContextOptions(
            n_ctx=n_ctx,
            n_slots=n_slots,
            n_cells=n_cells,
            is_unified=is_unified,
            n_batch=n_batch,
            swa_full=swa_full,
            n_threads=1,
            n_rows=n_rows,
        )
        self.backend = LlamaBackend(self.model, options)
        self._last_job = 0

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.close()
        if self._owns_model:
            self.model.close()

    def begin(self, sampling: Sampling = GREEDY, prompt: Iterable[int] = (), n_logprobs: int | None = None) -> int:
        self._last_job += 1
        job = Job(id=self._last_job, tokens=array("i", prompt), n_max=1, sampling=sampling, n_logprobs=n_logprobs)
        self.run(Plan(begins=(job,)))
        return job.id

    def run(self, plan: Plan) -> Sequence[Sampled]:
        self.backend.launch(plan)
        return self.backend.collect()

    def feed(self, slot: int, start: int, tokens: Iterable[int], job: int | None = None) -> int:
        """Compute tokens and sample one."""
        job = job or self.begin()
        return self.run(Plan(spans=(Span(job, slot, start, array("i", tokens), 1),)))[0].tokens[0]

    def row(self, slot: int, start: int, tokens: Iterable[int]) -> Row:
        """Compute tokens; the logits of the last."""
        self.feed(slot, start, tokens)
        return row_of(self.backend, 0)

    def answer(self, slot: int, start: int, tokens: Iterable[int], n: int, sampling: Sampling = GREEDY) -> list[int]:
        """Compute tokens and continue them by n."""
        tokens = list(tokens)
        job = self.begin(sampling, tokens)
        out = [self.feed(slot, start, tokens, job)]
        at = start + len(tokens)
        while len(out) < n:
            out.append(self.feed(slot, at, [out[-1]], job))
            at += 1
        return out

    def clear(self, *slots: int) -> None:
        self.run(Plan(truncations=tuple(Truncation(slot, 0) for slot in slots)))

    def copy(self, source: int, target: int, n: int, with_span: Span | None = None) -> None:
        self.run(Plan(copies=(Copy(source, target, n),), spans=(with_span,) if with_span else ()))

    def save(self, job: int, slot: int) -> None:
        self.run(Plan(saves=(Save(job, slot),)))

    def restore(self, job: int, slot: int) -> None:
        self.run(Plan(restores=(Restore(job, slot),)))


def assert_close(row: Row, wanted: Row) -> None:
    """Within a hundredth of the spread of the logits."""
    assert float(np.abs(row - wanted).max()) <= 0.01 * float(wanted.max() - wanted.min())


def check_held(backend: LlamaBackend, slots: Mapping[int, int]) -> None:
    """Each slot holds exactly that many positions."""
    for slot, n in slots.items():
        held = backend._context.pos_max(slot) + 1
        assert held == n, f"slot {slot} holds {held} positions, {n} were expected"


def row_of(backend: LlamaBackend, index: int) -> Row:
    """A copy of a row of the last decode."""
    assert 0 <= index < backend._n_launched_rows, f"row {index} of {backend._n_launched_rows}"
    return np.array(backend._rows(backend._n_launched_rows)[index])
