"""The models that come with the package: their names, their specs, and whether the files are still those shipped.

Knows where the files lie and their sums; opens no model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamahost.core.errors import LoadFailed
from llamahost.fleet.settings.manifest import BUILTIN_PATH, PACKAGED, PACKAGED_ADAPTERS, Manifest, ModelSpec

NAME = "builtin"
ALIASES = ("tiny",)
EMBED_NAME = "builtin-embed"
SUMS = BUILTIN_PATH.parent / "SHA256SUMS"
ANSWERS = BUILTIN_PATH.parent / "known_answers.json"
NEIGHBOURS = BUILTIN_PATH.parent / "known_neighbours.json"


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """What the model says to this at temperature 0, on any machine."""

    question: str
    answer: str


def is_named(model: str | Path) -> bool:
    """Whether this means a model in the package: its name, and no file that lies here."""
    return str(model) in (*PACKAGED, *ALIASES) and not Path(model).is_file()


def builtin(names: tuple[str, ...] = (), *, model: str | Path = NAME, **options: Any) -> ModelSpec:
    """The spec of the one that `is_named`; `names` come before its own. Raises ManifestError on a bad option."""
    own = (EMBED_NAME,) if str(model) == EMBED_NAME else (NAME, *ALIASES)
    name, *aliases = dict.fromkeys((*names, *own))
    return ModelSpec(name=name, path=PACKAGED[own[0]], aliases=tuple(aliases), **options)


def adapter_file(path: str | Path) -> Path:
    """An adapter in the package goes by its name, where no file is called so."""
    return PACKAGED_ADAPTERS[str(path)] if str(path) in PACKAGED_ADAPTERS and not Path(path).is_file() else Path(path)


def is_alone(manifest: Manifest) -> bool:
    """Whether the built-in chat model is all that is served."""
    return [spec.path for spec in manifest.models] == [BUILTIN_PATH]


def known_answers() -> tuple[KnownAnswer, ...]:
    """Raises LoadFailed where the package is not whole."""
    return tuple(KnownAnswer(*each) for each in _known_in(ANSWERS, ("question", "answer")))


@dataclass(frozen=True, slots=True)
class KnownNeighbour:
    """Of these documents the built-in embedding model finds this one nearest to the query, on any machine."""

    query: str
    nearest: str


def known_neighbours() -> tuple[KnownNeighbour, ...]:
    """Raises LoadFailed where the package is not whole."""
    return tuple(KnownNeighbour(*each) for each in _known_in(NEIGHBOURS, ("query", "nearest")))


def _known_in(file: Path, fields: tuple[str, str]) -> list[list[str]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = [[str(each[field]) for field in fields] for each in found]
    except OSError as error:
        raise LoadFailed(f"the package is not whole: {file}: {error.strerror}; install llamahost again") from error
    except (ValueError, LookupError, TypeError) as error:
        raise LoadFailed(f"{file} was altered: {error}; install llamahost again") from error
    if not known:  # nothing to compare would be well
        raise LoadFailed(f"{file} was altered: it holds nothing; install llamahost again")
    return known


def verify(path: Path) -> None:
    """Refuse a built-in file that is missing or is not what was shipped; any other file passes. Raises LoadFailed."""
    if path not in (*PACKAGED.values(), *PACKAGED_ADAPTERS.values()):
        return
    what = "model" if path in PACKAGED.values() else "adapter"
    try:
        lines = [line.split() for line in SUMS.read_text(encoding="utf-8", errors="replace").splitlines()]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise LoadFailed(
            f"the built-in {what} is not whole: {error.filename}: {error.strerror or error}; install llamahost again"
        ) from error
    wanted = next((line[0] for line in lines if line[1:] == [path.name]), None)
    if wanted is None:
        raise LoadFailed(f"{SUMS} was altered: it has no sum of {path.name}; install llamahost again")
    if found != wanted:
        raise LoadFailed(
            f"the built-in {what} {path} was altered: its SHA-256 is {found[:16]}…, not {wanted[:16]}…; "
            "install llamahost again"
        )
