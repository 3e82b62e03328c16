"""What becomes of a request's words: jobs for the engine, and replies that read what it makes. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamahost.core.work import Adapters, Job
from llamahost.text.reply import Reply


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is to be computed and who tells it: of the same length and order, by the answer's index."""

    jobs: tuple[Job, ...]
    replies: tuple[Reply, ...]

    def with_adapters(self, adapters: Adapters, named: str) -> Prepared:
        """The same, to be computed with these; told as of the one that was `named`, if one was."""
        if named:
            for reply in self.replies:
                reply.model = f"{reply.model}:{named}"
        return Prepared(tuple(replace(job, adapters=adapters) for job in self.jobs), self.replies)
