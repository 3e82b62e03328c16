"""Sort a model's text into channels: what is said, what is thought, what is called. Knows no tokens.

The families' own formats come as further splitters; a reply takes any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llamahost.core.events import Channel


@dataclass(frozen=True, slots=True)
class Segment:
    """Text of one channel; of a tool call, also which one it belongs to."""

    text: str
    channel: Channel = "text"
    call_id: str = ""
    call_name: str = ""


class Splitter(Protocol):
    """Owned by one reply. May hold text back until it knows where it belongs; loses none."""

    n_calls: int  # tool calls seen so far; with any, the answer ends for the reason "tool"

    def feed(self, text: str) -> list[Segment]: ...

    def flush(self) -> list[Segment]:
        """The end of the text: everything that was held back."""
        ...


class PlainSplitter:
    """All is text."""

    n_calls = 0

    def feed(self, text: str) -> list[Segment]:
        return [Segment(text)] if text else []

    def flush(self) -> list[Segment]:
        return []
