"""Bring a model to this machine, into Hugging Face's cache: resumed where it broke off, checked before it has a name.

Blocking; one thread does one pull. What is not whole lies under a name ending in .incomplete, which no program takes
for a model. What another program has already is linked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamahost.core.errors import LoadFailed, PullFailed
from llamahost.core.sizes import bytes_told
from llamahost.files import hub as hubs
from llamahost.files.blobs import explained, hard_link, is_at, is_whole, link, lock, unfinished_of, write, write_all
from llamahost.files.hub import BrokenOff, Hub, Listing, Offline
from llamahost.files.local import Places, chosen, find, models, same
from llamahost.files.repo import Choice, Reference, RepoFile, choose
from llamahost.native.gguf import read_metadata

Kind = Literal["listing", "waiting", "pulling", "verifying", "linking", "done"]

TELL_S = 0.1  # between two words about the same file
WAIT_S = 0.2  # between two looks whether another process is done with a file
MAGIC = b"GGUF"
SPARE_BYTES = 64 * 2**20  # of a disk, left free
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """How far a pull is: `n_done` of `n_total` bytes of this file, the `index`th of `n_files`."""

    kind: Kind
    file: str = ""
    digest: str = ""
    n_total: int = 0
    n_done: int = 0
    index: int = 0
    n_files: int = 0
    told: str = ""  # a sentence for people, where there is more to say


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """A model that is here now, whole. `note` says what was not as asked for."""

    reference: Reference
    paths: tuple[Path, ...]
    quant: str
    n_bytes: int
    n_fetched: int = 0
    note: str = ""


class Cancelled(PullFailed):
    """Nobody waits for it any more; what has come is kept for the next time."""


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True, kw_only=True)
class Puller:
    """What a pull works with. A file above `whole_bytes` comes in pieces. All but the first two are there for tests."""

    hub: Hub
    places: Places
    free_bytes: Callable[[Path], int] = _free_bytes
    backoff_s: float = hubs.BACKOFF_S
    whole_bytes: int = hubs.WHOLE_BYTES
    piece_bytes: int = hubs.PIECE_BYTES

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Puller:
        """By the variables that every program for the hub reads."""
        return cls(hub=Hub.of(environ), places=Places.of(environ))

    def pull(
        self,
        reference: Reference,
        on_step: Callable[[Step], None] = lambda step: None,
        cancelled: threading.Event | None = None,
    ) -> Pulled:
        """Have the model here, and say where. Raises PullFailed, Offline and Cancelled among it."""
        run = _Run(self, reference, on_step, cancelled or threading.Event())
        try:
            return run.whole()
        except OSError as error:
            raise explained(error, self.places.hub) from error


class _Run:
    """One pull. Owned by the thread that runs it."""

    def __init__(
        self, puller: Puller, reference: Reference, on_step: Callable[[Step], None], cancelled: threading.Event
    ) -> None:
        self._hub = puller.hub
        self._places = puller.places
        self._free_bytes = puller.free_bytes
        self._backoff_s = puller.backoff_s
        self._whole_bytes, self._piece_bytes = puller.whole_bytes, puller.piece_bytes
        self._reference = reference
        self._on_step = on_step
        self._cancelled = cancelled
        self._folder = puller.places.repo_folder(reference.repo)
        self._n_fetched = 0
        self._commit = ""

    def whole(self) -> Pulled:
        self._on_step(Step("listing"))
        try:
            listing = self._listing()
        except Offline as error:
            return self._without_hub(error)
        choice = choose(self._reference, listing.files)
        self._commit = listing.commit
        paths = chosen(self._places, choice, self._reference.repo, listing.commit)
        notes = [choice.why] if choice.why else []
        if paths is None:
            paths = self._fetched(choice, notes)
        self._on_step(Step("done"))
        return Pulled(
            reference=self._reference,
            paths=paths,
            quant=choice.quant,
            n_bytes=choice.n_bytes,
            n_fetched=self._n_fetched,
            note="; ".join(notes),
        )

    def _listing(self) -> Listing:
        """Asked for again where the hub is only busy. Raises PullFailed, Offline."""
        for k in range(hubs.LISTING_TRIES):
            try:
                return self._hub.listing(self._reference)
            except BrokenOff as error:
                trouble = str(error)
                self._cancelled.wait(self._backoff_s * 2**k)
                self._refuse_when_cancelled()
        raise Offline(f"{self._hub.name} does not answer: {trouble}")

    def _without_hub(self, error: Offline) -> Pulled:
        found = find(self._places, self._reference)
        if found is None:
            here = [each.name for each in models(self._places) if each.repo == self._reference.repo and each.is_whole]
            told = f"of {self._reference.repo} there is {', '.join(here)} here" if here else "nothing of it is here yet"
            raise Offline(f"{error}; {told}") from error
        self._on_step(Step("done"))
        return Pulled(
            reference=self._reference, paths=found.paths, quant=found.quant, n_bytes=found.n_bytes, note=str(error)
        )

    def _fetched(self, choice: Choice, notes: list[str]) -> tuple[Path, ...]:
        blobs = self._folder / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        self._refuse_what_has_no_room(choice, blobs)
        for index, file in enumerate(choice.files):
            if not file.digest:
                raise PullFailed(f"{self._hub.name} tells no checksum of {file.path}, so it cannot be trusted")
            blob = blobs / file.digest
            if not is_whole(blob, file):
                self._have(
                    file, blob, Step("pulling", file.path, _digest(file), file.size, 0, index, len(choice.files)), notes
                )
        # Only now that every shard is whole is there anything that looks like the model.
        snapshot = self._folder / "snapshots" / self._commit
        paths = tuple(link(snapshot / file.path, blobs / file.digest, self._folder) for file in choice.files)
        if self._reference.revision != self._commit:
            write(self._folder / "refs" / self._reference.revision, self._commit)
        return paths

    def _refuse_what_has_no_room(self, choice: Choice, blobs: Path) -> None:
        n_lacking = 0
        for file in choice.files:
            if is_whole(blobs / file.digest, file) or any(same(self._places, file)):
                continue
            partial = unfinished_of(blobs / file.digest)
            n_lacking += file.size - (min(partial.stat().st_size, file.size) if partial.exists() else 0)
        n_free = self._free_bytes(blobs)
        if n_lacking and n_lacking + SPARE_BYTES > n_free:
            raise PullFailed(
                f"{self._reference} needs {bytes_told(n_lacking)} more beside {bytes_told(SPARE_BYTES)} that stay "
                f"free, and {bytes_told(n_free)} are free in {self._places.hub}; make room, or set HF_HUB_CACHE to a "
                "folder on another disk"
            )

    def _have(self, file: RepoFile, blob: Path, step: Step, notes: list[str]) -> None:
        """The blob, linked or fetched; checked either way."""
        partial = unfinished_of(blob)
        with self._locked(partial, step) as descriptor:
            if is_whole(blob, file):  # another process has brought it meanwhile
                partial.unlink(missing_ok=True)
                return
            for candidate in same(self._places, file):
                with contextlib.suppress(OSError):
                    if self._sum(candidate, file, step) == file.digest:
                        self._on_step(_with(step, "linking", file.size, f"{candidate} is the same file"))
                        hard_link(candidate, blob)
                        partial.unlink(missing_ok=True)
                        notes.append(f"{file.path} is linked to {candidate}")
                        return
            self._fetch(file, partial, descriptor, step)
            self._check(file, partial, step)
            partial.rename(blob)

    def _fetch(self, file: RepoFile, partial: Path, descriptor: int, step: Step) -> None:
        """Bring the bytes that lack, and look at them; start over once where what was there before was damaged."""
        for is_last in (False, True):
            n_had = os.fstat(descriptor).st_size
            if n_had > file.size:
                os.ftruncate(descriptor, 0)
                n_had = 0
            self._transfer(file, descriptor, n_had, step)
            os.fsync(descriptor)
            found = self._sum(partial, file, step)
            if found == file.digest:
                return
            os.ftruncate(descriptor, 0)
            if is_last or n_had == 0:
                partial.unlink(missing_ok=True)
                raise PullFailed(
                    f"{file.path} came with other bytes than {self._hub.name} announced "
                    f"({found[:12]}… in place of {file.digest[:12]}…); nothing of it is kept"
                )

    def _transfer(self, file: RepoFile, descriptor: int, n_done: int, step: Step) -> None:
        """The bytes from `n_done` on, asked for again as long as each time brings more than any before."""
        furthest, n_tries = n_done, 0
        while n_done < file.size:
            self._refuse_when_cancelled()
            trouble = "it ended too early"
            is_large = file.size > self._whole_bytes
            end = min(n_done + self._piece_bytes, file.size) if is_large else None
            try:
                with self._content(file, n_done, end) as (begins, chunks):
                    if begins != n_done:
                        n_done = begins
                        os.ftruncate(descriptor, n_done)
                    os.lseek(descriptor, n_done, os.SEEK_SET)
                    for n_done in self._written(file, descriptor, n_done, chunks, step):  # noqa: B007, B020 — how far it came
                        pass
            except BrokenOff as error:
                trouble = str(error)
            if n_done >= file.size:
                return
            if n_done == end:
                continue  # with the next piece
            n_tries = 1 if n_done > furthest else n_tries + 1
            furthest = max(furthest, n_done)
            if n_tries >= hubs.PATIENCE:
                raise PullFailed(
                    f"{file.path} broke off at {bytes_told(n_done)} of {bytes_told(file.size)}: {trouble}; "
                    "what has come is kept, and the next pull goes on from there"
                )
            self._cancelled.wait(self._backoff_s * 2 ** (n_tries - 1))

    @contextmanager
    def _content(self, file: RepoFile, start: int, end: int | None) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Raises as Hub.content; of a piece that is refused it is told what else may fetch the file."""
        with contextlib.ExitStack() as stack:
            try:
                found = stack.enter_context(self._hub.content(self._reference, self._commit, file.path, start, end))
            except Offline:
                raise
            except PullFailed as error:
                if end is None:
                    raise
                raise PullFailed(
                    f"{error}; a file of {bytes_told(file.size)} may come through Xet alone, as by "
                    f"`hf download {self._reference.repo} {file.path}`, whose cache is this one"
                ) from error
            yield found

    def _written(
        self, file: RepoFile, descriptor: int, n_done: int, chunks: Iterator[bytes], step: Step
    ) -> Iterator[int]:
        told_at = 0.0
        for chunk in chunks:
            self._refuse_when_cancelled()
            if n_done == 0 and not chunk.startswith(MAGIC[: len(chunk)]):
                os.ftruncate(descriptor, 0)
                raise PullFailed(f"{file.path} is no GGUF file: it begins with {chunk[:4]!r}; nothing of it is kept")
            if n_done + len(chunk) > file.size:
                raise PullFailed(f"{file.path} has more than the {file.size} bytes that {self._hub.name} announced")
            write_all(descriptor, chunk)
            n_done += len(chunk)
            self._n_fetched += len(chunk)
            now = time.monotonic()
            if now - told_at >= TELL_S or n_done == file.size:
                told_at = now
                self._on_step(_with(step, "pulling", n_done))
            yield n_done

    def _check(self, file: RepoFile, partial: Path, step: Step) -> None:
        try:
            read_metadata(partial)
        except LoadFailed as error:
            partial.unlink(missing_ok=True)
            raise PullFailed(f"{str(error).replace(str(partial), file.path)}; nothing of it is kept") from error

    def _sum(self, path: Path, file: RepoFile, step: Step) -> str:
        """Of the file's bytes, as the hub has it."""
        by_git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        digest = hashlib.sha256() if file.sha256 else by_git
        n_done, told_at = 0, 0.0
        with path.open("rb", buffering=0) as source:
            while chunk := source.read(CHUNK_BYTES):
                self._refuse_when_cancelled()
                digest.update(chunk)
                n_done += len(chunk)
                now = time.monotonic()
                if now - told_at >= TELL_S:
                    told_at = now
                    self._on_step(_with(step, "verifying", n_done))
        return digest.hexdigest()

    @contextmanager
    def _locked(self, partial: Path, step: Step) -> Iterator[int]:
        """The unfinished file, open, and this process the only one at it."""
        while True:
            self._refuse_when_cancelled()
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if lock(descriptor) and is_at(descriptor, partial):
                    try:
                        yield descriptor
                    finally:
                        if os.fstat(descriptor).st_size == 0 and is_at(descriptor, partial):
                            partial.unlink()
                    return
            finally:
                os.close(descriptor)
            self._on_step(_with(step, "waiting", 0, "another process pulls this file"))
            self._cancelled.wait(WAIT_S)

    def _refuse_when_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(f"the pull of {self._reference} was cancelled; what has come is kept")


def _with(step: Step, kind: Kind, n_done: int, told: str = "") -> Step:
    return Step(kind, step.file, step.digest, step.n_total, n_done, step.index, step.n_files, told)


def _digest(file: RepoFile) -> str:
    return f"sha256:{file.sha256}" if file.sha256 else f"git:{file.git_sha1}"
