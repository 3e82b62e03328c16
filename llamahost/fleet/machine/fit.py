"""Choose the shape of a context for a model and a machine: slots, tokens, layout. Pure arithmetic; opens nothing.

Why 8 slots where nothing else is said: one step reads the weights once for all slots, so that even two cores answer
eight streams faster together than in turn, and an idle slot costs only the cells that it could use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llamahost.fleet.settings.manifest import ModelSpec

DEFAULT_N_CTX = 8192
"""Models are trained on up to millions of tokens; a conversation seldom needs more, and every slot may fill it."""

DEFAULT_N_SLOTS = 8

LEAST_N_CTX = 512
_ROUND = 256  # llama.cpp rounds cells to this


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the choice needs to know of a model. `cell_bytes` is the KV of one token; 0 for recurrent memory."""

    n_ctx_train: int
    cell_bytes: float
    weight_bytes: int  # in the memory that the KV is also in


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """`n_cells` tokens in all slots together: n_ctx * n_slots when split, their common pool when unified."""

    n_ctx: int
    n_slots: int
    n_cells: int
    is_unified: bool


def shapes(spec: ModelSpec, facts: Facts, available_bytes: int) -> Iterator[Shape]:
    """The shape to try first, then ever smaller ones for when memory turns out to be short.

    What the spec says is kept in all of them; if it leaves nothing to choose, there is only one.
    """
    shape = choose_shape(spec, facts, available_bytes)
    yield shape
    while (smaller := _smaller(spec, shape)) is not None:
        shape = smaller
        yield shape


def choose_shape(spec: ModelSpec, facts: Facts, available_bytes: int) -> Shape:
    """Split where a quarter of the memory that is left holds every slot's whole context: it decodes faster with many
    streams. Else unified, with as many cells as that quarter holds, and at least one whole context.
    """
    free = max(available_bytes - facts.weight_bytes, available_bytes // 8)
    # under a byte a token there is no KV to speak of
    comfortable = int(free / 4 / facts.cell_bytes) if facts.cell_bytes >= 1 else 2**40
    n_slots = spec.n_slots or DEFAULT_N_SLOTS
    n_ctx = spec.n_ctx or min(facts.n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX, spec.n_cells or DEFAULT_N_CTX)
    if spec.n_ctx is None and spec.n_cells is None:
        n_sure = n_slots if spec.kv_layout == "split" else 1  # contexts that must fit whole
        while n_ctx * n_sure > 2 * comfortable and n_ctx // 2 >= LEAST_N_CTX:
            n_ctx //= 2
    is_split = spec.kv_layout == "split" or (
        spec.kv_layout == "auto" and spec.n_cells is None and n_ctx * n_slots <= comfortable
    )
    is_split = is_split and spec.split_mode != "tensor"  # where llama.cpp ends the process over two slots in a step
    if is_split:
        return Shape(n_ctx=n_ctx, n_slots=n_slots, n_cells=n_ctx * n_slots, is_unified=False)
    n_cells = _rounded(spec.n_cells or min(max(comfortable, n_ctx), n_ctx * n_slots), least=n_ctx)
    return Shape(n_ctx=n_ctx, n_slots=n_slots, n_cells=n_cells, is_unified=True)


def _smaller(spec: ModelSpec, shape: Shape) -> Shape | None:
    """Half the cells, then half the context, then half the slots; None when nothing may or can be given up."""
    if spec.kv_layout == "auto" and spec.n_cells is None and shape.n_cells > shape.n_ctx:
        n_cells = _rounded(shape.n_cells // 2, least=shape.n_ctx)
        if n_cells < shape.n_cells:
            return replace(shape, n_cells=n_cells, is_unified=True)
    if spec.n_ctx is None and shape.n_ctx // 2 >= LEAST_N_CTX:
        n_ctx = shape.n_ctx // 2
        n_cells = spec.n_cells or (_rounded(n_ctx, least=n_ctx) if shape.is_unified else n_ctx * shape.n_slots)
        return replace(shape, n_ctx=n_ctx, n_cells=n_cells)
    if spec.n_slots is None and shape.n_slots > 1:
        n_slots = shape.n_slots // 2
        return replace(shape, n_slots=n_slots, n_cells=shape.n_cells if shape.is_unified else shape.n_ctx * n_slots)
    return None


def _rounded(n_cells: int, *, least: int) -> int:
    """A multiple of what llama.cpp rounds to: down, but not below what one request may hold."""
    down = n_cells // _ROUND * _ROUND
    return down if down >= least else -(-least // _ROUND) * _ROUND
