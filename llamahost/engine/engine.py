"""Join a scheduler with a backend: one step is plan, launch, collect, commit; its news goes out in a later one.

On a device that computes by itself, news goes out while the next step computes; elsewhere just before the next decode,
and that of short steps in groups (HOLD_S). Nothing is left when there is nothing more to do.

The border for failures: a step that fails costs the jobs of its plan, a lost backend costs all jobs, and nothing that
a backend raises passes this module. Knows tokens and time; knows no text, thread or loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llamahost.core.backend import Backend, KeepsSlots
from llamahost.core.errors import BackendError, BackendLost, NoRoom
from llamahost.core.work import NO_ADAPTERS, Emission, Job, KeptSlot, News, OneMore, Plan
from llamahost.engine.pace import Pace
from llamahost.engine.scheduler import Scheduler

logger = logging.getLogger("llamahost.engine")

HOLD_S = 0.008
"""Steps shorter than this share a wake-up of the readers: on a small model, telling of a token costs the processor
that computes the next one a tenth of a step. First tokens and ends are told at once; nothing is held into a long step.
Half a frame of a display, so no eye can tell.
"""

COUNT_S = 0.05
"""The figures of an engine are made anew this often: they cost as much as planning a step does."""


N_IN_VAIN = 3
"""Failed steps in a row, with nobody's job in them, after which a backend is taken for lost: what cannot even clear a
slot would be asked to again and again, as fast as it fails."""


class EngineStats(NamedTuple):
    """How an engine stood at most COUNT_S ago; totals count from its making. Any thread may read it.

    `n_tokens_in` are prompt tokens of the jobs begun, `n_tokens_out` tokens generated. `backend_s` is time in launch
    and collect, `host_s` the rest of the steps and the telling of their news; `step_s` is what a step takes now.
    """

    n_running: int = 0
    n_waiting: int = 0
    n_cells_used: int = 0
    n_cells: int = 0
    n_steps: int = 0
    n_tokens_in: int = 0
    n_tokens_out: int = 0
    n_failed_steps: int = 0
    host_s: float = 0.0
    backend_s: float = 0.0
    step_s: float = 0.0

    @property
    def thread_s(self) -> float:
        """What it had of its worker's thread, all together."""
        return self.host_s + self.backend_s

    def and_of(self, other: EngineStats) -> EngineStats:
        """These with what another engine of the same model was asked and took; what holds slots and cells is these."""
        return self._replace(
            n_steps=self.n_steps + other.n_steps,
            n_tokens_in=self.n_tokens_in + other.n_tokens_in,
            n_failed_steps=self.n_failed_steps + other.n_failed_steps,
            host_s=self.host_s + other.host_s,
            backend_s=self.backend_s + other.backend_s,
        )


class Doing(NamedTuple):
    """A step that has begun and has not returned."""

    since: float
    expected_s: float
    job_ids: Sequence[int] = ()  # of those that it computes for


class Engine:
    """Owned by its worker's thread; `stats`, `doing` and `lost` may be read by any.

    `publish` takes the news of a step and must not wait or raise. `on_lost` is called once, when the backend is gone.
    """

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        publish: Callable[[list[News]], None],
        *,
        on_lost: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = EngineStats(n_cells=backend.n_cells)
        self.doing: Doing | None = None
        self.lost = ""  # why nothing can be computed any more; empty while all is well
        self._backend = backend
        self._scheduler = scheduler
        self._publish = publish
        self._on_lost = on_lost
        self._clock = clock
        self._pace = Pace()
        self._news: list[News] = []
        self._news_since = 0.0  # when the oldest of it was made
        self._is_urgent = False  # it holds a first token or an end
        self._untold: set[int] = set()  # jobs of which there has been no news
        self._jobs: set[int] = set()  # submitted, and their last emission not yet made
        self._seen: set[str] = set()  # kinds of failure whose traceback has been logged
        self._is_closed = False
        self._n_in = 0
        self._n_out = 0
        self._n_steps = 0
        self._n_failed = 0
        self._n_in_vain = 0  # of them, the last ones that were nobody's
        self._host_s = 0.0
        self._backend_s = 0.0
        self._in_backend_s = 0.0  # of the step that runs
        self._counted_at = -COUNT_S

    def submit(self, job: Job) -> None:
        """Take a job; its news ends with an emission that has `finish`, whatever happens."""
        if self.lost or self._is_closed:
            error = self.lost or "the model was closed"
            self._publish([Emission(job.id, finish="failed", error=error)])
            return
        self._jobs.add(job.id)
        self._untold.add(job.id)
        try:
            self._scheduler.add(job, self._clock())
        except Exception as error:
            self._log(error)
            self._note([Emission(job.id, finish="failed", error=str(error))])

    def abort(self, job_id: int) -> None:
        """End a job before the next plan. Idempotent; unknown and finished jobs are no matter."""
        if job_id not in self._jobs:
            return
        emission = self._scheduler.abort(job_id)
        self._jobs.discard(job_id)
        self._untold.discard(job_id)
        if emission is not None:
            self._note([emission])

    def waiting(self) -> frozenset[int]:
        """Jobs of which nothing was begun, and nothing is about to be. Called by the worker."""
        return self._scheduler.not_begun

    def keep(self, n_bytes: int) -> tuple[KeptSlot, ...]:
        """What idle slots hold, within so many bytes, the last used last. Called by the worker, as all of this."""
        backend, kept = self._backend, []
        if self.lost or self._is_closed or not isinstance(backend, KeepsSlots):
            return ()
        slots = [each for each in self._scheduler.slots.all if each.sequence is None and each.adapters == NO_ADAPTERS]
        for slot in sorted(slots, key=lambda each: each.used_at, reverse=True):
            taken = backend.take_slot(slot.index, len(slot.kept), n_bytes) if slot.kept else b""
            n_bytes -= len(taken)
            if taken:
                kept.append(KeptSlot(slot.kept[:], taken))
        return tuple(kept[::-1])

    def restore(self, kept: Sequence[KeptSlot]) -> None:
        """Have empty slots hold what was kept, before any job comes. What does not fit is left out."""
        backend, slots = self._backend, self._scheduler.slots
        if not isinstance(backend, KeepsSlots):
            return
        for slot, each in zip(slots.all, kept, strict=False):
            n = len(each.tokens)
            if n > backend.n_ctx or slots.n_cells_used + n > backend.n_cells or slot.sequence or slot.kept:
                continue
            try:
                backend.put_slot(slot.index, each.state)
            except BackendError as error:
                self._log(error)
            else:
                slots.fill(slot, each.tokens, n_least=0 if backend.can_cut_kept else n)

    def step(self) -> bool:
        """Make one step. False: there was nothing to do, and the news of all that was done is out."""
        if self.lost or self._is_closed:
            return False
        began = self._clock()
        self._in_backend_s = 0.0
        try:
            plan = self._scheduler.plan(began)
            if plan is None:
                self._tell()
                self._host_s += self._clock() - began
                self._count()
                self._counted_at = -COUNT_S  # whoever sees an idle engine must see at once when it is no longer
                return False
            self._run(plan)
        except Exception as error:  # the scheduler broke its own laws: nothing that it holds can be trusted
            self._log(error)
            self._lose(f"the scheduler failed: {error}")
        finally:
            self.doing = None
        self._n_steps += 1
        now = self._clock()
        self._host_s += max(0.0, now - began - self._in_backend_s)
        self._backend_s += self._in_backend_s
        if now - self._counted_at >= COUNT_S:
            self._counted_at = now
            self._count()
        return True

    def flush(self) -> None:
        """Publish what was held. For whoever knows that the next step of this engine is not the next thing done."""
        if self._news:
            began = self._clock()
            self._tell()
            self._host_s += self._clock() - began

    def close(self) -> None:
        """Fail the jobs that are left and free the backend. Idempotent."""
        if self._is_closed:
            return
        self._fail_everything("the model was closed")
        self._is_closed = True
        self._count()
        self._backend.close()

    def _run(self, plan: Plan) -> None:
        """All of the step after its plan, up to the news of it."""
        if plan.begins:
            self._n_in += sum(len(job.tokens) for job in plan.begins)
        began = self._clock()
        n_tokens = plan.n_tokens
        expected_s = self._pace.expected_s(n_tokens)
        self.doing = Doing(began, expected_s, plan.job_ids)
        # Just before the decode lets go of the GIL: the readers wake when they can run.
        if not self._backend.overlaps and (self._is_urgent or began + expected_s - self._news_since > HOLD_S):
            self._tell()
        try:
            self._backend.launch(plan)
            if self._backend.overlaps:  # the device computes: the last step's news costs it nothing now
                flushing = self._clock()
                self._tell()
                self._in_backend_s -= self._clock() - flushing
            sampled = self._backend.collect()
        except NoRoom:
            self._in_backend_s += self._clock() - began
            self._note(self._scheduler.no_room(plan))
            return
        except BackendLost as error:
            self._log(error)
            self._lose(str(error))
            return
        except Exception as error:
            self._in_backend_s += self._clock() - began
            self._n_failed += 1
            self._log(error)
            failed = self._scheduler.fail(plan, str(error))
            self._note(failed)
            self._n_in_vain = 0 if failed else self._n_in_vain + 1
            if self._n_in_vain == N_IN_VAIN:
                self._lose(f"{N_IN_VAIN} steps in a row failed with no job in them: {error}")
            return
        self._n_in_vain = 0
        now = self._clock()
        step_s = now - began
        self._in_backend_s += step_s
        self._pace.learn(n_tokens, step_s)
        self._note(self._scheduler.commit(plan, sampled, now, step_s))

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self._on_lost(reason)  # before the news: whoever reads that must not find this engine still trusted
        self._fail_everything(reason)

    def _fail_everything(self, reason: str) -> None:
        try:
            self._note(self._scheduler.fail_all(reason))
        except Exception as error:
            self._log(error)
        # Law: every job submitted is told its end, even by a scheduler that forgot it.
        self._note([Emission(job_id, finish="failed", error=reason) for job_id in sorted(self._jobs)])
        self._tell()

    def _tell(self) -> None:
        """Publish what was held."""
        if self._news:
            news, self._news = self._news, []
            self._is_urgent = False
            self._publish(news)

    def _note(self, news: Sequence[News]) -> None:
        if not news:
            return
        if not self._news:
            self._news_since = self._clock()
        for each in news:
            self._n_out += len(each.tokens)
            if not isinstance(each, OneMore):
                self._note_one(each)
        self._news += news

    def _note_one(self, emission: Emission) -> None:
        """A first token, an end, or what is no matter to anybody here."""
        job_id = emission.job_id
        # What is told of a prompt is not yet the first token that somebody waits for.
        if job_id in self._untold and (emission.tokens or emission.finish is not None):
            self._untold.discard(job_id)
            self._is_urgent = True
        if emission.finish is not None:
            self._n_out += emission.n_hidden
            self._jobs.discard(job_id)
            self._is_urgent = True

    def _count(self) -> None:
        self.stats = EngineStats(
            n_running=self._scheduler.n_running,
            n_waiting=self._scheduler.n_waiting,
            n_cells_used=self._scheduler.n_cells_used,
            n_cells=self._backend.n_cells,
            n_steps=self._n_steps,
            n_tokens_in=self._n_in,
            n_tokens_out=self._n_out,
            n_failed_steps=self._n_failed,
            host_s=self._host_s,
            backend_s=self._backend_s,
            step_s=self._pace.recent_s,
        )

    def _log(self, error: Exception) -> None:
        kind = f"{type(error).__name__} {error}"
        if len(self._seen) < 100 and kind not in self._seen:
            self._seen.add(kind)
            is_expected = isinstance(error, BackendError)
            logger.error("a step failed: %s", error, exc_info=None if is_expected else error)
        else:
            logger.error("a step failed again: %s", error)
