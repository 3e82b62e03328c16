"""The folder of what llamahost can find out again, and small files in it: written whole or not at all, and believed
only where they make sense. Knows nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from llamahost.files.local import expanded, home_of

LARGEST_BYTES = 4 * 2**20  # of a small file; more is none of ours


def cache_folder(environ: Mapping[str, str]) -> Path:
    """LLAMAHOST_CACHE, else below the user's cache."""
    if own := environ.get("LLAMAHOST_CACHE"):
        return expanded(own)
    cache = environ.get("XDG_CACHE_HOME") or home_of(environ) / ".cache"
    return Path(cache) / "llamahost"


def read_json(file: Path) -> object:
    """None where it is not there, or nonsense."""
    try:
        if file.stat().st_size > LARGEST_BYTES:
            return None
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def write_json(file: Path, value: object) -> None:
    """In place of what was there. Raises OSError."""
    with written(file) as new:
        new.write(json.dumps(value).encode())


@contextmanager
def written(file: Path) -> Iterator[IO[bytes]]:
    """A file under a name of its own, which takes the other's when all went well; for this user alone."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")  # threads write too, and containers share pids
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as out:  # noqa: PTH123 — of a descriptor, made for this user alone
            yield out
        new.replace(file)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
