"""Choose the slot of a newcomer, and where the start of its prompt comes from. Changes nothing.

What is weighed, all in tokens to compute: the prompt's rest; a copy (of a whole slot's buffer, in split KV); and what a
gap between active slots costs, because split KV forms micro-batches only from ascending consecutive slots, so that each
further run of them is about one more pass over the weights in every step. Among choices of nearly equal cost the one
wins that destroys no cache worth keeping, then the least recently used slot. So the start of a prompt that is shorter
than what its copy costs is computed again: to sit where it is would cost what that slot holds beyond it, the answer
to a conversation that may go on, to save a few tokens of one step. Whoever asks aside (a title, tags) pays for what it
destroys: no conversation is to be computed again for a short answer beside it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llamahost.engine.prefix import reusable
from llamahost.engine.sequence import NOWHERE, Sequence, Slot
from llamahost.engine.slots import Slots

RUN_COST = 2048
"""A pass over the weights, every step, for the life of a request: worth more than most prompts."""
COPY_COST = 32
REFERENCE_COST = 8
"""A copy in split KV; and in unified KV, where it shares the cells, and costs a walk over their table."""
NEARLY = 64
"""Differences of cost below this are not worth a cache."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Sit in `slot`; [0, n) of the prompt is there already, or comes from `source`."""

    slot: Slot
    n: int
    source: Slot | None = None


def place(
    sequence: Sequence, slots: Slots, *, no_sources: Collection[int] = (), no_targets: Collection[int] = ()
) -> Placement | None:
    """The best place for `sequence`, or None where no slot is idle.

    `no_sources` were written in this very plan, `no_targets` are read in it; a plan allows neither the other way round.
    """
    tokens, adapters = sequence.tokens, sequence.job.adapters
    is_split = slots.cells is None
    if sequence.is_scored:
        n_of = [0] * len(slots.all)
    else:
        n_of = [reusable(slot, tokens, adapters, can_truncate=slots.can_truncate) for slot in slots.all]
    source = max(
        (slot for slot in slots.all if slot.index not in no_sources),
        key=lambda slot: (n_of[slot.index], slot.sequence is not None, slot.used_at),
        default=None,
    )
    n_copy = n_of[source.index] if source is not None else 0
    copy_cost = COPY_COST if is_split else REFERENCE_COST
    options: list[tuple[int, Placement]] = []
    for slot in slots.all:
        if slot.sequence is not None:
            continue
        placement = Placement(slot, n_of[slot.index])
        cost = len(tokens) - placement.n
        if source is not slot and n_copy - copy_cost > placement.n and slot.index not in no_targets:
            placement = Placement(slot, n_copy, source)
            cost = len(tokens) - n_copy + copy_cost
        if sequence.job.is_aside and slot.used_at != NOWHERE:
            cost += slot.n - (placement.n if placement.source is None else 0)  # which its owner would compute again
        if is_split:
            cost += RUN_COST * _runs_added(slots.all, slot.index)
        options.append((cost, placement))
    if not options:
        return None
    cheapest = min(cost for cost, _ in options)
    return min(
        ((cost, placement) for cost, placement in options if cost <= cheapest + NEARLY),
        key=lambda option: _regret(*option),
    )[1]


def _regret(cost: int, placement: Placement) -> tuple[bool, int, bool, int, int]:
    slot = placement.slot
    n_kept = placement.n if placement.source is None else 0
    destroys = slot.n - n_kept > n_kept // 2
    return destroys, 0 if destroys else cost, placement.source is not None, slot.used_at, slot.index


def _runs_added(slots: list[Slot], index: int) -> int:
    """By how much the number of runs of active slots grows when this one becomes active: 1, 0, or -1."""
    left = index > 0 and slots[index - 1].sequence is not None
    right = index + 1 < len(slots) and slots[index + 1].sequence is not None
    return 1 - left - right
