"""Take a model out of Hugging Face's cache, with the bytes that nothing else names. Touches no others'."""

from __future__ import annotations

import contextlib
from pathlib import Path

from llamahost.core.errors import InvalidRequest, PullFailed
from llamahost.files.blobs import lock
from llamahost.files.local import UNFINISHED, Found, Places, unfinished

_HOW = {
    "Ollama": "`ollama rm {name}` removes it",
    "LM Studio": "LM Studio removes it, or delete {path}",
    "llama.cpp": "delete {path}",
}


def remove(found: Found, places: Places) -> int:
    """Returns how many bytes are free then; 0 where another program has them. Raises InvalidRequest, PullFailed."""
    if found.owner != "Hugging Face":
        how = _HOW[found.owner].format(name=found.name, path=found.path)
        raise InvalidRequest(f"{found.name} belongs to {found.owner}: {how}", param="model")
    folder = places.repo_folder(found.repo)
    blobs = {path.resolve() for path in found.paths if path.exists()}
    try:
        for link in _links(folder):
            if link in found.paths or link.resolve() in blobs:  # of the same bytes, in another snapshot
                link.unlink()
        named = {link.resolve() for link in _links(folder)}
        n_freed = 0
        for blob in blobs - named:
            if blob.is_relative_to(folder.resolve()) and blob.is_file():
                n_freed += blob.stat().st_size if blob.stat().st_nlink == 1 else 0
                blob.unlink()
        for blob in (folder / "blobs").iterdir():
            if blob.is_symlink() and blob.resolve() in blobs:  # to another program's file
                blob.unlink()
        _sweep(folder)
    except OSError as error:
        raise PullFailed(f"cannot remove {error.filename}: {error.strerror or error}") from error
    return n_freed


def remove_unfinished(places: Places) -> int:
    """Forget what broken pulls left, but not what a process works on now. Returns how many bytes are free then."""
    n_freed = 0
    try:
        for path in unfinished(places):
            with path.open("r+b") as file:  # to write, which some file systems want of who locks
                if not lock(file.fileno()):
                    continue
                n_freed += path.stat().st_size
                path.unlink()
            for folder in (path.parent, path.parent.parent):
                with contextlib.suppress(OSError):
                    folder.rmdir()
    except OSError as error:
        raise PullFailed(f"cannot remove {error.filename}: {error.strerror or error}") from error
    return n_freed


def _links(folder: Path) -> list[Path]:
    return [path for path in (folder / "snapshots").rglob("*") if path.is_symlink() or path.is_file()]


def _sweep(folder: Path) -> None:
    """Folders that hold nothing any more; where nothing is left that has a name, also what pulls left unfinished."""
    if not _links(folder):
        for each in (folder / "blobs").glob(f"*{UNFINISHED}"):
            each.unlink()
        for each in (path for path in (folder / "refs").rglob("*") if path.is_file()):
            each.unlink()
    for each in sorted((path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True):
        with contextlib.suppress(OSError):
            each.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()
