"""What there is to give away: slots, positions, and the tokens and rows of a step. Plain counts, checked once.

law: each running sequence has a token and a row in every step; one sequence alone always finds its cells
"""

from __future__ import annotations

from dataclasses import dataclass

from llamahost.core.backend import Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of a backend, in its own words. Raises ValueError where the laws could not be kept."""

    n_ctx: int
    n_slots: int
    n_batch: int
    n_rows: int
    n_cells: int
    is_unified: bool = False
    can_truncate: bool = True

    def __post_init__(self) -> None:
        if self.n_slots < 1 or self.n_ctx < 1:
            raise ValueError("a scheduler wants at least one slot of at least one position")
        if self.n_batch < self.n_slots:
            raise ValueError(f"n_batch ({self.n_batch}) must hold a token of each of the {self.n_slots} slots")
        if self.n_rows < self.n_slots:
            raise ValueError(f"n_rows ({self.n_rows}) must hold a row of each of the {self.n_slots} slots")
        if self.is_unified and self.n_cells < self.n_ctx:
            raise ValueError(f"n_cells ({self.n_cells}) must hold one request of n_ctx ({self.n_ctx}) tokens")

    @classmethod
    def of(cls, backend: Backend) -> Limits:
        return cls(
            n_ctx=backend.n_ctx,
            n_slots=backend.n_slots,
            n_batch=backend.n_batch,
            n_rows=backend.n_rows,
            n_cells=backend.n_cells,
            is_unified=backend.is_unified,
            can_truncate=backend.can_truncate,
        )
