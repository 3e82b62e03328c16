"""What lies on this machine already: Hugging Face's cache, llama.cpp's, LM Studio's folder, Ollama's blobs.

Reads folders and small files; asks no hub, opens no model, changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamahost.core.errors import InvalidRequest, PullFailed
from llamahost.files.repo import (
    Choice,
    Reference,
    RepoFile,
    choose,
    is_model,
    parse_reference,
    quant_of,
    shard_names,
)

Owner = Literal["Hugging Face", "llama.cpp", "LM Studio", "Ollama"]

UNFINISHED = ".llamahost.incomplete"
"""How the names end of what is not whole yet: no program takes such a file for a model."""

_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_LIBRARY = "registry.ollama.ai/library/"
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model on this machine. `paths` are its shards, in order; some are missing where it is not whole."""

    name: str  # by which commands know it
    owner: Owner
    paths: tuple[Path, ...]
    repo: str = ""
    quant: str = ""
    is_whole: bool = True

    @property
    def path(self) -> Path:
        """What is opened: the first shard."""
        return self.paths[0]

    @property
    def n_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths if path.is_file())


@dataclass(frozen=True, slots=True)
class Places:
    """Where each program keeps its models. They need not exist."""

    hub: Path
    llama_cpp: Path
    lm_studio: tuple[Path, ...]
    ollama: tuple[Path, ...]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Places:
        """By the variables that those programs read."""
        home = home_of(environ)
        cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
        hf_home = expanded(environ.get("HF_HOME") or cache / "huggingface")
        hub = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or hf_home / "hub"
        ollama = environ.get("OLLAMA_MODELS")
        return cls(
            hub=expanded(hub),
            llama_cpp=expanded(environ.get("LLAMA_CACHE") or cache / "llama.cpp"),
            lm_studio=(home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"),
            ollama=(expanded(ollama),)
            if ollama
            else (home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")),
        )

    def repo_folder(self, repo: str) -> Path:
        """Where Hugging Face's programs keep what they have of a repository."""
        return self.hub / ("models--" + repo.replace("/", "--"))


def expanded(path: str | Path) -> Path:
    """With the home folder that `~` means; as it is where there is none, as those programs take it."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def home_of(environ: Mapping[str, str]) -> Path:
    """The user's; `/`, as container runtimes say, of one of whom the system knows nothing."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return Path("/")


def models(places: Places) -> list[Found]:
    """Every model that lies here; once, where several snapshots of a repository have it."""
    found: dict[tuple[str, str, int, int], Found] = {}
    for each in (*_of_hub(places), *_of_lm_studio(places), *_of_llama_cpp(places), *_of_ollama(places)):
        try:
            stat = each.path.stat()
        except OSError:
            continue
        found.setdefault((each.owner, each.name, stat.st_dev, stat.st_ino), each)
    return sorted(found.values(), key=lambda each: each.name.lower())


def unfinished(places: Places) -> list[Path]:
    """What pulls left behind that broke off, or are under way."""
    return sorted(places.hub.glob(f"models--*--*/blobs/*{UNFINISHED}"))


def find(places: Places, reference: Reference) -> Found | None:
    """The model that this reference means, where it is whole here: as the hub would choose, of what there is."""
    of_repo = [each for each in models(places) if each.repo.lower() == reference.repo.lower() and each.is_whole]
    for owner in ("Hugging Face", "LM Studio", "llama.cpp", "Ollama"):
        here = [each for each in of_repo if each.owner == owner]
        if owner == "Hugging Face":
            here = _of_revision(places, reference, here)
        elif reference.revision != "main":
            continue
        by_name = {_name_in_repo(each): each for each in reversed(here)}  # of a name the first: the current one
        try:
            choice = choose(reference, [RepoFile(path, 0) for each in by_name for path in shard_names(each)])
        except PullFailed:
            continue
        return by_name[choice.files[0].path]
    return None


def named(places: Places, text: str) -> Found | None:
    """The model that goes by this name here: a reference to the hub, or as Ollama or `llamahost list` calls it."""
    known = models(places)
    for each in known:
        if each.is_whole and text in (each.name, each.name.removesuffix(":latest")):
            return each
    try:
        return find(places, parse_reference(text))
    except InvalidRequest:
        return None


def files_of(path: Path) -> tuple[Path, ...]:
    """Those that a model is made of, by the name of one of them. Raises PullFailed on a name of too many."""
    return tuple(path.with_name(name) for name in shard_names(path.name))


def same(places: Places, file: RepoFile) -> Iterator[Path]:
    """Files here that may hold the very bytes of this one: by their sum, where a name tells it, or name and size."""
    if file.sha256:
        candidates = [root / "blobs" / f"sha256-{file.sha256}" for root in places.ollama]
        candidates += places.hub.glob(f"models--*/blobs/{file.sha256}") if places.hub.is_dir() else ()
        yield from (path for path in candidates if _size(path) == file.size)
    name = file.path.rpartition("/")[2]
    for root in places.lm_studio:
        yield from (path for path in _files(root) if path.name == name and _size(path) == file.size)
    for path in _files(places.llama_cpp):
        if path.name.endswith(name) and _size(path) == file.size:
            yield path


def chosen(places: Places, choice: Choice, repo: str, commit: str) -> tuple[Path, ...] | None:
    """Where these files lie in Hugging Face's cache, if all of them do."""
    folder = places.repo_folder(repo) / "snapshots" / commit
    paths = tuple(folder / file.path for file in choice.files)
    return paths if all(_size(path) == file.size for path, file in zip(paths, choice.files, strict=True)) else None


def _of_hub(places: Places) -> Iterator[Found]:
    for folder in sorted(places.hub.glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/")
        snapshots = sorted((folder / "snapshots").glob("*"), key=_age)
        current = folder / "snapshots" / (_read(folder / "refs" / "main").strip() or "-")
        for snapshot in sorted(snapshots, key=lambda path: path != current):
            for path in _files(snapshot):
                name = path.relative_to(snapshot).as_posix()
                if is_model(name):
                    yield _shards(repo, path, "Hugging Face", repo)


def _of_lm_studio(places: Places) -> Iterator[Found]:
    for root in places.lm_studio:
        for path in _files(root):
            parts = path.relative_to(root).parts
            if is_model(path.name):
                repo = "/".join(parts[:2]) if len(parts) >= 3 else ""
                yield _shards(repo or path.stem, path, "LM Studio", repo)


def _of_llama_cpp(places: Places) -> Iterator[Found]:
    """Its own older cache, where the repository is in the file's name; the newer one is Hugging Face's."""
    for path in _files(places.llama_cpp):
        if is_model(path.name):
            owner, _, rest = path.name.partition("_")
            match = re.match(r"(.+?-GGUF)_", rest, re.IGNORECASE)
            repo = f"{owner}/{match[1]}" if match else ""
            yield _shards(repo or path.stem, path, "llama.cpp", repo)


def _of_ollama(places: Places) -> Iterator[Found]:
    for root in places.ollama:
        manifests = root / "manifests"
        for manifest in _files(manifests, suffix=""):
            blob = _ollama_blob(root, manifest)
            if blob is None:
                continue
            *name, tag = manifest.relative_to(manifests).parts
            called = "/".join(name).removeprefix(_OLLAMA_LIBRARY).removeprefix("registry.ollama.ai/")
            repo = "/".join(name[1:]) if name[0] in ("hf.co", "huggingface.co") and len(name) == 3 else ""
            quant = tag if repo and tag != "latest" else ""
            yield Found(
                name=f"{called}:{tag}", owner="Ollama", paths=(blob,), repo=repo, quant=quant, is_whole=blob.is_file()
            )


def _ollama_blob(root: Path, manifest: Path) -> Path | None:
    try:
        if manifest.stat().st_size > _MAX_MANIFEST_BYTES:
            return None
        layers = json.loads(manifest.read_bytes())["layers"]
        digest = next(str(layer["digest"]) for layer in layers if layer["mediaType"] == _OLLAMA_MODEL)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return None
    return root / "blobs" / digest.replace(":", "-") if re.fullmatch(r"sha256:[0-9a-f]{64}", digest) else None


def _shards(name: str, path: Path, owner: Owner, repo: str) -> Found:
    paths = tuple(path.with_name(each) for each in shard_names(path.name))
    quant = quant_of(path.name) or quant_of("/".join(path.parts[-2:]))
    return Found(
        name=f"{name}:{quant}" if quant and repo else name,
        owner=owner,
        paths=paths,
        repo=repo,
        quant=quant,
        is_whole=all(each.is_file() for each in paths),
    )


def _of_revision(places: Places, reference: Reference, found: list[Found]) -> list[Found]:
    """Those of the snapshot that the revision means; of `main` any, the current one before others."""
    if reference.revision == "main":
        return found
    folder = places.repo_folder(reference.repo)
    commit = _read(folder / "refs" / reference.revision).strip() or reference.revision
    return [each for each in found if (folder / "snapshots" / commit) in each.path.parents]


def _name_in_repo(found: Found) -> str:
    """What the file is called in its repository, as far as its place tells."""
    if found.owner == "Ollama":
        return f"{found.repo.rpartition('/')[2]}-{found.quant or 'Q4_K_M'}.gguf"
    parts = found.path.parts
    if found.owner == "Hugging Face" and "snapshots" in parts:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("snapshots") + 2 :])
    if found.owner == "llama.cpp":
        return found.path.name.removeprefix(found.repo.replace("/", "_") + "_")
    return found.path.name


def _files(root: Path, suffix: str = ".gguf") -> Iterator[Path]:
    """Those below a folder, in order; nothing where it is not there or may not be read."""
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir() and not entry.is_symlink():
                yield from _files(entry, suffix)
            elif entry.name.lower().endswith(suffix) and entry.is_file():
                yield entry
        except OSError:
            continue


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:256]
    except OSError:
        return ""
