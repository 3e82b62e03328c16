"""Sort a model's text into channels: what is said, what is thought, what is called. Knows no tokens.

`formats` holds the families' own; a reply takes any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llamahost.core.events import Channel


@dataclass(frozen=True, slots=True)
class Segment:
    """Text of one channel. The first segment of each call, and it alone, has the call's id and name."""

    text: str
    channel: Channel = "text"
    call_id: str = ""
    call_name: str = ""


class Splitter(Protocol):
    """Owned by one reply. May hold text back until it knows where it belongs; loses none."""

    @property
    def n_calls(self) -> int:
        """Tool calls so far; with any, the answer ends for the reason "tool"."""
        ...

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is reasoning, or the end of it."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether the answer is complete here, whatever the model might still write."""
        ...

    def feed(self, text: str) -> list[Segment]: ...

    def flush(self) -> list[Segment]:
        """The end of the text: everything that was held back."""
        ...


class PlainSplitter:
    """All is text."""

    n_calls = 0
    is_thinking = False
    is_done = False

    def feed(self, text: str) -> list[Segment]:
        return [Segment(text)] if text else []

    def flush(self) -> list[Segment]:
        return []


def joined(segments: list[Segment]) -> list[Segment]:
    """The same, with neighbours of one channel in one; each call stays its own."""
    whole: list[Segment] = []
    for segment in segments:
        last = whole[-1] if whole else None
        if last is not None and last.channel == segment.channel and not segment.call_id:
            whole[-1] = Segment(last.text + segment.text, last.channel, last.call_id, last.call_name)
        else:
            whole.append(segment)
    return whole
