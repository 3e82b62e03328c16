"""Files of a pull as they lie in the cache: unfinished, whole, linked, named. Knows no hub."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from pathlib import Path

from llamahost.core.errors import PullFailed
from llamahost.files.local import UNFINISHED
from llamahost.files.repo import RepoFile

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def unfinished_of(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}{UNFINISHED}")


def is_whole(blob: Path, file: RepoFile) -> bool:
    """Whether it lies there; a blob gets its name only when it is whole."""
    return blob.is_file() and blob.stat().st_size == file.size


def lock(descriptor: int) -> bool:
    """Whether this process has the file to itself; also where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether this is still the file of that name: whoever had it before may have given it its own."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def hard_link(source: Path, target: Path) -> None:
    """Share the bytes: they stay when the other program lets go of them. Across disks only a symbolic link can be."""
    target.unlink(missing_ok=True)  # a broken link, or a file of another size
    try:
        os.link(source.resolve(), target)
    except OSError:
        target.symlink_to(source.resolve())


def link(path: Path, blob: Path, root: Path) -> Path:
    """Name the blob there, as Hugging Face's programs do: by a relative link. Returns the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    up = len(path.relative_to(root).parts) - 1
    target = "../" * up + f"blobs/{blob.name}"
    if not (path.is_symlink() and str(path.readlink()) == target):
        new = _new(path)
        try:
            new.symlink_to(target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            blob.rename(new)  # as Hugging Face's programs do on disks that know no links
        new.replace(path)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _new(path)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _new(path: Path) -> Path:
    """A name that no other pull has: two models may be of one repository."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")


def explained(error: OSError, folder: Path) -> PullFailed:
    if error.errno in _FULL:
        return PullFailed(
            f"there is no room left in {folder}: {(error.strerror or '').lower()}; make room and pull again, which "
            "goes on from there, or set HF_HUB_CACHE to a folder on another disk"
        )
    return PullFailed(f"cannot write {error.filename or folder}: {error.strerror or error}")
