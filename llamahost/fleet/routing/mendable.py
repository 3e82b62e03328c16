"""Which failures another replica or model may mend, and which of several is told where nobody could. Pure."""

from __future__ import annotations

from llamahost.core.errors import (
    ContextTooLong,
    GenerationFailed,
    LlamahostError,
    LoadFailed,
    NotAble,
    NotBegun,
    OutOfReach,
    Overloaded,
    Unavailable,
)

NOT_ITS_FAULT = (ContextTooLong, NotAble)
MENDABLE = (GenerationFailed, Unavailable, Overloaded, LoadFailed, *NOT_ITS_FAULT)
"""What another may do better: a longer context is one of these, or what this model cannot do at all."""


def hope(error: LlamahostError) -> tuple[int, int]:
    """How near it came to an answer: who could give one is heard before who cannot, though he was asked later. Who is
    only full, or loads, is soon there; what cannot be loaded hides from nobody that for others the prompt is too long,
    and for the longest of them it is told.
    """
    match error:
        case NotAble():
            return 0, 0
        case NotBegun():
            return 0, 1
        case OutOfReach() | LoadFailed():
            return 1, 0
        case ContextTooLong(n_ctx=n_ctx):
            return 2, n_ctx
        case Overloaded():
            return 4, 0
    return 3, 0
