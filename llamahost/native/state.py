"""Take a slot's KV to host memory and back. Knows bytes and slots; knows no job and no text."""

from __future__ import annotations

import ctypes

from llamahost.core.errors import BackendError
from llamahost.native.context import Context


def size_of(context: Context, slot: int) -> int:
    """Bytes that `take` would need now."""
    return int(context.c.llama_state_seq_get_size(context.pointer, slot))


def take(context: Context, slot: int) -> bytearray:
    """A copy of the slot's state. It must have no copy pending: what is waiting for a decode is not in it."""
    n = size_of(context, slot)
    data = bytearray(n)
    if n == 0:
        return data
    buffer = (ctypes.c_uint8 * n).from_buffer(data)
    written = int(context.c.llama_state_seq_get_data(context.pointer, buffer, n, slot))
    if written == 0 or written > n:
        raise BackendError(f"the state of slot {slot} ({n} bytes) cannot be read")
    return data


def put(context: Context, slot: int, data: bytearray) -> None:
    """Replace the slot's state. Raises BackendError, with the slot cleared, when it does not fit or is damaged."""
    context.truncate(slot, 0)  # a state without cells would leave the old ones in place
    if not data:
        return
    buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
    read = int(context.c.llama_state_seq_set_data(context.pointer, buffer, len(data), slot))
    if read == 0:
        context.truncate(slot, 0)
        raise BackendError(f"a saved state of {len(data)} bytes does not go into slot {slot}")
