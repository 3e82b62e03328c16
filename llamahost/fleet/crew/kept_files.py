"""What the slots of unloaded models held, in files: beyond what this machine's memory is given for it, and beyond the
process. Within a budget, the oldest leaving first.

A file is named by all that its states depend on, so that no other file or setting finds it, and by whose they were. It
begins with the sum of what follows: what is not whole is removed, never restored. For this user alone: prompts are in
it. Blocking.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamahost.core.work import KeptSlot
from llamahost.fleet.crew.kept import Kept, model_of
from llamahost.fleet.machine.cache import written

logger = logging.getLogger("llamahost.fleet")

MAGIC = b"LHKEPT1\n"
MAX_AGE_S = 30 * 86400.0
SCRAP_AGE_S = 3600.0
"""Of a file that is not whole: whoever wrote it is gone."""
_HEAD_BYTES = len(MAGIC) + 32 + 8


@dataclass(frozen=True, slots=True)
class PrefixFiles:
    """Those of one folder. Two processes may share it: a file is written whole, and whose is gone is computed again."""

    folder: Path

    def put(self, kept: Kept, n_most: int) -> None:
        """Keep this in place of what the replica held before, and no more than `n_most` bytes in all."""
        slots = kept.slots
        if slots and n_most > 0:
            table = json.dumps([[len(slot.tokens), len(slot.state)] for slot in slots]).encode()
            parts = [table, *(part for slot in slots for part in (slot.tokens.tobytes(), slot.state))]
            if _HEAD_BYTES + sum(map(len, parts)) <= n_most:
                try:
                    with written(self._path(kept.key, kept.replica)) as out:
                        out.write(MAGIC + _sum(parts) + len(table).to_bytes(8, "little"))
                        for part in parts:
                            out.write(part)
                except OSError as error:  # a full disk, for one: they are computed again, that is all
                    logger.warning("prefixes could not be written to %s: %s", self.folder, error)
                alike = f"{_name(kept.key)}-{_name(model_of(kept.replica))}-*.prefixes"
                for path in self._found(alike)[kept.n_replicas :]:
                    with contextlib.suppress(OSError):
                        path.unlink()
        self.trim(n_most)

    def get(self, key: object, replica: str, n_most: int, *, is_own: bool = False) -> tuple[KeptSlot, ...]:
        """Its own, else its model's, else what fits, unless it must be its own; nothing where there are none, or more
        than `n_most` bytes, or where they are not as they were.
        """
        path = self._path(key, replica)
        if not is_own and not path.exists():
            names = f"{_name(key)}-{_name(model_of(replica))}-*.prefixes", f"{_name(key)}-*.prefixes"
            path = next((each for name in names for each in self._found(name)), path)
        try:
            with path.open("rb") as file:
                n_bytes = os.fstat(file.fileno()).st_size
                if n_bytes > n_most:
                    return ()
                data = file.read(n_bytes)
        except OSError:
            return ()
        slots = _slots(data)
        if slots is None:
            logger.warning("%s is not as it was written, and is removed", path)
            with contextlib.suppress(OSError):
                path.unlink()
        return slots or ()

    def trim(self, n_most: int) -> None:
        """Remove what is old or too much, and scraps."""
        now, left = time.time(), n_most
        found: list[tuple[float, int, Path]] = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    found.append((stat.st_mtime, stat.st_size, path))
        for written_at, n_bytes, path in sorted(found, key=lambda each: each[0], reverse=True):
            is_whole = path.suffix == ".prefixes"
            if not is_whole and path.suffix != ".new":
                continue  # none of ours
            left -= n_bytes * is_whole
            if left < 0 or now - written_at > (MAX_AGE_S if is_whole else SCRAP_AGE_S):
                left += n_bytes * is_whole
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path(self, key: object, replica: str) -> Path:
        return self.folder / f"{_name(key)}-{_name(model_of(replica))}-{replica.rpartition('#')[2]}.prefixes"

    def _found(self, pattern: str) -> list[Path]:
        """The newest first."""
        found: list[tuple[int, Path]] = []
        with contextlib.suppress(OSError):
            for path in self.folder.glob(pattern):
                with contextlib.suppress(OSError):
                    found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found, reverse=True)]


def _name(key: object) -> str:
    return hashlib.sha256(repr(key).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _sum(parts: Sequence[bytes | memoryview]) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()


def _slots(data: bytes) -> tuple[KeptSlot, ...] | None:
    head, rest = data[:_HEAD_BYTES], memoryview(data)[_HEAD_BYTES:]
    if not head.startswith(MAGIC) or len(head) < _HEAD_BYTES or _sum([rest]) != head[len(MAGIC) : len(MAGIC) + 32]:
        return None
    n_table = int.from_bytes(head[-8:], "little")
    try:
        table = json.loads(bytes(rest[:n_table]))
        slots, at = [], n_table
        for n_tokens, n_state in table:
            tokens = array("i")
            n = n_tokens * tokens.itemsize
            tokens.frombytes(rest[at : at + n])
            slots.append(KeptSlot(tokens, bytes(rest[at + n : at + n + n_state])))
            at += n + n_state
    except (ValueError, TypeError):
        return None
    return tuple(slots) if at == len(rest) else None
