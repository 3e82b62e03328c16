"""Count the cells of a unified KV exactly. Knows slots and lengths; knows no tokens.

A copy shares cells by reference, so what a slot holds is a path of runs: a run is a stretch of cells that was computed
in one place, its holders are the slots whose content passes through it, each up to an end of its own.

    law: a run costs max(ends of its holders) - start; the used cells are the sum over runs
    law: a slot's path covers [0, length) without gap; only its last run may be held in part
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise


class Run:
    """Cells [start, end), each of them held by the holders whose end lies beyond it."""

    __slots__ = ("end", "holders", "start")

    def __init__(self, start: int, end: int, slot: int) -> None:
        self.start = start
        self.end = end
        self.holders = {slot: end}


class Cells:
    """Owned by the table of slots."""

    def __init__(self, n_slots: int) -> None:
        self.used = 0
        self._paths: list[list[Run]] = [[] for _ in range(n_slots)]

    def length(self, slot: int) -> int:
        path = self._paths[slot]
        return path[-1].holders[slot] if path else 0

    def extend(self, slot: int, n: int) -> None:
        """Compute `n` more positions of `slot`, in cells of their own."""
        if n <= 0:
            return
        self.used += n
        path = self._paths[slot]
        start = 0
        if path:
            run = path[-1]
            start = run.holders[slot]
            if start == run.end:  # nobody has gone further on this run, so it may grow
                run.end = run.holders[slot] = start + n
                return
        path.append(Run(start, start + n, slot))

    def truncate(self, slot: int, n: int) -> int:
        """Keep [0, n) of `slot`; tell how many cells became free."""
        path = self._paths[slot]
        freed = 0
        while path and path[-1].start >= n:
            freed += self._let_go(path.pop(), slot)
        if path and path[-1].holders[slot] > n:
            run = path[-1]
            run.holders[slot] = n
            freed += self._shrink(run)
        return freed

    def copy(self, source: int, target: int, n: int) -> None:
        """Let [0, n) of `target` be the cells of `source`; what `target` held is let go."""
        self.truncate(target, 0)
        path = self._paths[target]
        for run in self._paths[source]:
            if run.start >= n:
                break
            run.holders[target] = min(run.holders[source], n)
            path.append(run)

    def used_by(self, slots: Collection[int], *, source: int = 0, n: int = 0) -> int:
        """Cells that would be used if only `slots`, and [0, n) of `source`, were kept."""
        ends: dict[Run, int] = {}
        for slot in slots:
            for run in self._paths[slot]:
                ends[run] = max(ends.get(run, 0), run.holders[slot])
        for run in self._paths[source]:
            if run.start < n:
                ends[run] = max(ends.get(run, 0), min(run.holders[source], n))
        return sum(end - run.start for run, end in ends.items())

    def check_integrity(self) -> None:
        runs: dict[Run, int] = {}
        for slot, path in enumerate(self._paths):
            end = 0
            for run in path:
                assert run.start == end, f"slot {slot} has a gap in its cells at {end}"
                assert slot in run.holders, f"slot {slot} does not hold a run of its path"
                end = run.holders[slot]
                assert run.start < end <= run.end, f"slot {slot} holds an empty or too long run"
                runs[run] = runs.get(run, 0) + 1
            assert all(run.holders[slot] == after.start for run, after in pairwise(path))
        for run, n_holders in runs.items():
            assert len(run.holders) == n_holders, "a run has a holder whose path does not pass it"
            assert run.end == max(run.holders.values()), "a run has cells that nobody holds"
        assert self.used == sum(run.end - run.start for run in runs), "the count of used cells is wrong"

    def _let_go(self, run: Run, slot: int) -> int:
        del run.holders[slot]
        return self._shrink(run)

    def _shrink(self, run: Run) -> int:
        end = max(run.holders.values(), default=run.start)
        freed = run.end - end
        run.end = end
        self.used -= freed
        return freed
